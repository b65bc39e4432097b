"""The run-config keys that FLIP's FL API gives a Flower job: declared in each template, and at work in the run."""

from __future__ import annotations

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
from flip_fl.results.verify import read_evaluation
from flip_fl.settings import write_settings_file
from tests.support.flower_client import ask, context, settle
from tests.support.flower_packages import write_evaluation_package, write_package, write_staged_package
from tests.support.runs import pending
from tests.support.small_apps import write_app

TEMPLATES = ("standard", "fed_opt", "evaluation", "diffusion_model")
SLOTS = ("Trust_1", "Trust_2")
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
    "best-model-metric": "loss",
    "best-model-metric-minimize": True,
    "flip-model-id": "",
    "flip-project-id": "sealed project",
    "flip-cohort-query": "SELECT person_id FROM omop.person WHERE note = '{x}'",
    "flip-job-dir": "",
    "flip-min-clients": 2,
}

# What a package's own ClientApp finds in its run config at each task.
TOLD = """
WANTED = {wanted!r}


def told(context):
    got = {{key: context.run_config[key] for key in WANTED}}
    assert got == WANTED, sorted(key for key in WANTED if got[key] != WANTED[key])
"""
TELLS = "told(context)"
EPOCHS = 'metrics["epochs"] = float(epochs)'


@pytest.mark.parametrize("job_type", TEMPLATES)
def test_flower_takes_every_key_of_the_api(job_type: str) -> None:
    """A key that is not declared, or of another type, would be refused by ``flwr run``: Flower's own merge decides."""
    template = template_dir("flower", job_type)
    merged = get_fused_config_from_dir(template, GIVEN)
    declared = get_fused_config_from_dir(template, {})
    for key, value in GIVEN.items():
        assert merged[key] == value
        assert type(declared[key]) is type(value), key


def write_app_of(job_type: str, root: Path, wanted: dict[str, Any]) -> Path:
    """A package of FLIP's form that looks at its run config in every task; config.json leaves the rest to the API."""
    own = {"imports": TOLD.format(wanted=wanted), "in_evaluate": TELLS}
    if job_type == "evaluation":
        return write_evaluation_package(root, **own)
    write = write_staged_package if job_type == "diffusion_model" else write_package
    silent = {"GLOBAL_ROUNDS": None, "LOCAL_ROUNDS": None, "job_type": job_type}
    return write(root, in_train=TELLS, before_reply=EPOCHS, **own, **silent)


def submitted(job_type: str, tmp_path: Path) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    """The template, filled and run as the API does it: files copied, keys given, nothing else.

    The job's bundle, all that it would tell a hub, and the keys.
    """
    model_id = uuid4()
    given = {**GIVEN, "flip-model-id": str(model_id), "flip-job-dir": str(tmp_path / "job" / "app")}
    package = write_app_of(job_type, tmp_path / "package", given)
    job = tmp_path / "job"
    shutil.copytree(template_dir("flower", job_type), job)
    shutil.copytree(package / "app", job / "app")
    kept = tmp_path / "checkpoints" / str(model_id)
    kept.mkdir(parents=True)
    for checkpoint in (job / "app").glob("*.pt"):
        checkpoint.rename(kept / checkpoint.name)
    server = {"LOCAL_DEV": "true", "SERVER_CHECKPOINT_ROOT": str(tmp_path / "checkpoints")}
    write_settings_file(tmp_path / "settings" / "server.env", server)
    for slot in SLOTS:
        site = {"DEV_DATAFRAME": str(package / "cohort.csv"), "FLIP_STATE_DIR": str(tmp_path / slot)}
        mode = {"LOCAL_DEV": "true", "FLIP_ROLE": "client", "DEV_TABULAR": "true"}
        write_settings_file(tmp_path / "settings" / f"{slot}.env", {**mode, **site})
    run_job(job, SLOTS, run_config=given, log_dir=tmp_path / "logs")
    (outbox,) = tmp_path.rglob(f"{model_id}.sqlite")
    (bundle,) = tmp_path.rglob(f"{model_id}.zip")
    return bundle, [item for _, item in pending(outbox)], given


@pytest.mark.parametrize("job_type", TEMPLATES)
def test_a_package_of_the_existing_form_does_what_the_api_gives(
    job_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Model id, rounds, quorum and best model at the server; project, query and the trainer's numbers at the sites.

    The rounds of two stages, and the models of an evaluation, are config.json's.
    """
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "settings"))
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "flwr"))
    monkeypatch.delenv("FLIP_STATE_DIR", raising=False)
    bundle, told, given = submitted(job_type, tmp_path)
    rounds = [item["details"] for item in told if item.get("event_type") == "ROUND_STARTED"]
    assert [item["status"] for item in told if item["kind"] == "status"][-1] == "RESULTS_UPLOADED"
    if job_type == "evaluation":
        assert {slot: list(found) for slot, found in read_evaluation(bundle).items()} == {
            slot: ["SRV_base"] for slot in SLOTS
        }
        return
    stages = ["ae", "dm", "dm"] if job_type == "diffusion_model" else [None] * given["num-server-rounds"]
    assert [(each.get("stage"), each["total_rounds"]) for each in rounds] == [(stage, 3) for stage in stages]
    assert {item["result"] for item in told if str(item.get("label")).endswith("epochs")} == {4.0}
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
