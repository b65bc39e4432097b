"""The run-config keys that FLIP's FL API gives a Flower job: declared in each template, and at work in the run."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from flwr.common.config import get_fused_config_from_dir

from flip_fl.flower.apps import client_app
from flip_fl.flower.local_job import run_job
from flip_fl.flower.protocol import METRICS, NUM_EXAMPLES, get_report
from flip_fl.jobs.templates import template_dir
from flip_fl.settings import write_settings_file
from tests.support.flower_client import ask, context, settle
from tests.support.runs import pending
from tests.support.small_apps import write_app

TEMPLATES = ("standard", "fed_opt", "evaluation", "diffusion_model")
GIVEN: dict[str, Any] = {
    "num-server-rounds": 3,
    "local-epochs": 4,
    "learning-rate": 0.25,
    "batch-size": 7,
    "val-split": 0.3,
    "test-split": 0.15,
    "dp-enabled": False,
    "dp-clipping-norm": 2.0,
    "dp-sensitivity": 0.5,
    "dp-epsilon": 3.0,
    "dp-delta": 0.001,
    "best-model-metric": "worse",
    "best-model-metric-minimize": True,
    "flip-model-id": "",
    "flip-project-id": "sealed project",
    "flip-cohort-query": "SELECT person_id FROM omop.person WHERE note = '{x}'",
    "flip-job-dir": "",
    "flip-min-clients": 2,
}

CLIENT = """
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()
WANTED = {wanted!r}


def told(context):
    got = {{key: context.run_config[key] for key in WANTED}}
    assert got == WANTED, sorted(key for key in WANTED if got[key] != WANTED[key])


@app.train()
def train(message: Message, context: Context) -> Message:
    told(context)
    metrics = MetricRecord({{"num-examples": 5, "loss": 0.5, "epochs": float(context.run_config["local-epochs"])}})
    return Message(RecordDict({{"arrays": message.content["arrays"], "metrics": metrics}}), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    told(context)
    worse = float(message.content["config"]["server-round"])
    metrics = MetricRecord({{"num-examples": 5, "worse": worse}})
    return Message(RecordDict({{"metrics": metrics}}), reply_to=message)
"""
MODELS = """
import torch


def get_model():
    return torch.nn.Linear(3, 1)
"""


@pytest.mark.parametrize("job_type", TEMPLATES)
def test_flower_takes_every_key_of_the_api(job_type: str) -> None:
    """A key that is not declared, or of another type, would be refused by ``flwr run``: Flower's own merge decides."""
    template = template_dir("flower", job_type)
    merged = get_fused_config_from_dir(template, GIVEN)
    declared = get_fused_config_from_dir(template, {})
    for key, value in GIVEN.items():
        assert merged[key] == value
        assert type(declared[key]) is type(value), key


def write_job(folder: Path, wanted: dict[str, Any], job_type: str = "standard") -> Path:
    """The template, filled as the API fills it: files copied, nothing else."""
    shutil.copytree(template_dir("flower", job_type), folder)
    app = folder / "app"
    app.mkdir()
    (app / "client_app.py").write_text(CLIENT.format(wanted=wanted))
    (app / "models.py").write_text(MODELS)
    (app / "config.json").write_text(json.dumps({"job_type": job_type, "IMAGING": False}))
    return folder


@pytest.mark.parametrize("job_type", ["standard", "fed_opt"])
def test_what_the_api_gives_is_what_the_run_does(
    job_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model id, rounds, quorum and best model at the server; project, query and the trainer's numbers at the sites."""
    model_id = uuid4()
    given = {**GIVEN, "flip-model-id": str(model_id), "flip-job-dir": str(tmp_path / "job" / "app")}
    job = write_job(tmp_path / "job", given, job_type)
    (tmp_path / "cohort.csv").write_text("person_id,a\n1,2\n")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.delenv("FLIP_STATE_DIR", raising=False)
    write_settings_file(tmp_path / "settings" / "server.env", {"LOCAL_DEV": "true"})
    for slot in ("Trust_1", "Trust_2"):
        site = {"DEV_DATAFRAME": str(tmp_path / "cohort.csv"), "FLIP_STATE_DIR": str(tmp_path / slot)}
        mode = {"LOCAL_DEV": "true", "FLIP_ROLE": "client", "DEV_TABULAR": "true"}
        write_settings_file(tmp_path / "settings" / f"{slot}.env", {**mode, **site})
    run_job(job, ("Trust_1", "Trust_2"), run_config=given, log_dir=tmp_path / "logs")
    (outbox,) = tmp_path.rglob(f"{model_id}.sqlite")
    told = [item for _, item in pending(outbox)]
    rounds = [item for item in told if item.get("event_type") == "ROUND_STARTED"]
    assert [item["details"]["total_rounds"] for item in rounds] == [3, 3, 3]
    assert {item["result"] for item in told if item.get("label") == "epochs"} == {4.0}
    (bundle,) = tmp_path.rglob(f"{model_id}.zip")
    with zipfile.ZipFile(bundle) as archive:
        assert {"FL_global_model.pt", "best_FL_global_model.pt"} <= set(archive.namelist())


def test_a_folder_of_the_servers_is_not_looked_for_at_a_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The API's ``flip-job-dir`` is a path on its own disk: a trust runs the app that came with the job."""
    app = write_app(tmp_path / "app", in_train="return {'num_examples': 4, 'loss': 0.25}")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "trusts"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "trusts").mkdir()
    settle(app, tmp_path / "trusts")
    at = context(run={"flip-job-dir": "/somewhere/on/the/server/app", "flip-model-id": str(UUID(int=7))})
    reply = ask(client_app(app), at=at)
    assert get_report(reply).failure is None
    assert reply.content.metric_records[METRICS][NUM_EXAMPLES] == 4
