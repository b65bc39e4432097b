"""Jobs as FLIP's FL API submits them, run by NVFLARE's own simulator: each edit shows in what comes out."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from flip_fl.dashboard.story import Story
from flip_fl.environment import scrubbed
from flip_fl.nvflare.job import SERVER_CONFIG
from flip_fl.results.verify import read_evaluation
from flip_fl.simulate.prepare import prepare
from tests.support.evaluations import write_evaluation
from tests.support.federation import SLOTS, federation
from tests.support.fl_api import Submission, submitted_job
from tests.support.runs import pending
from tests.support.scripts import write_evaluator_script, write_script_app, write_staged_script
from tests.support.small_apps import write_app
from tests.support.staged_app import write_staged_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

# After round r every parameter that is trained is r times the slot's number: the average tells who counted how much.
NUMBERED = (
    "[p.data.fill_(site.round * float(site.name[-1])) for p in model.parameters() if p.requires_grad]; "
    "return {'num_examples': 10 * int(site.name[-1]), 'loss': 0.5, 'steps': float(config.get('LOCAL_ROUNDS', 1))}"
)
BODY_AND_HEAD = """
import torch


def get_model():
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
"""


def simulate(job: Path, workspace: Path, **environment: str) -> None:
    """NVFLARE's own command, which takes the sites from the job's deploy map."""
    command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(workspace), "-t", "2"]
    for _ in range(3):
        done = subprocess.run(
            command, env=scrubbed(**environment), capture_output=True, text=True, timeout=240, check=False
        )
        # It chooses a free port and binds it seconds later: on a busy machine somebody else may have it by then.
        if "Error binding to" not in done.stdout + done.stderr:
            break
        shutil.rmtree(workspace)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def run(job_type: str, app: Path, what: Submission, tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The job's results bundle, and all that it would tell a hub."""
    prepare(app, tmp_path / "data")
    job = submitted_job(job_type, app, what, tmp_path / "job")
    data = {"DEV_DATAFRAME": str(tmp_path / "data" / "cohort.csv"), "DEV_TABULAR": "true"}
    simulate(job, tmp_path / "ws", **data)
    (bundle,) = (tmp_path / "ws").rglob(f"results/{what.model_id}.zip")
    (outbox,) = (tmp_path / "ws").rglob(f"{what.model_id}.sqlite")
    return bundle, [item for _, item in pending(outbox)]


def weights(bundle: Path, name: str) -> dict[str, torch.Tensor]:
    with zipfile.ZipFile(bundle) as archive:
        loaded: dict[str, torch.Tensor] = torch.load(io.BytesIO(archive.read(name)), weights_only=True)
    return loaded


def test_every_edit_of_a_standard_job_has_its_effect(tmp_path: Path) -> None:
    """Sites by the deploy map; rounds, weights, local rounds, what travels, the best model as the API has them.

    The body is the same in every round, the head 3 parts Trust_1's and 1 part Trust_2's; the best round is the first.
    """
    app = write_app(
        tmp_path / "app", in_train=NUMBERED, wrong="float(site.round)", model_code=BODY_AND_HEAD, GLOBAL_ROUNDS=1
    )
    config = json.loads((app / "config.json").read_text())
    (app / "config.json").write_text(json.dumps({**config, "AGGREGATE_ONLY_REGEX": "^1[.]"}))
    what = Submission(
        uuid4(),
        SLOTS,
        num_rounds=2,
        local_rounds=3,
        aggregation_weights={"Trust_1": 3.0, "Trust_2": 1.0},
        aggregate_only_regex="^1[.]",
        best_model_metric="wrong",
        best_model_minimize=True,
    )
    bundle, told = run("standard", app, what, tmp_path)
    last, best = weights(bundle, "FL_global_model.pt"), weights(bundle, "best_FL_global_model.pt")
    assert list(last) == ["0.weight", "0.bias", "1.weight", "1.bias"]
    for found, number in ((last, 2), (best, 1)):
        assert torch.equal(found["0.weight"], last["0.weight"])
        assert len(found["0.weight"].unique()) == 6
        for key in ("1.weight", "1.bias"):
            torch.testing.assert_close(found[key], torch.full_like(found[key], 1.25 * number))
    assert len([item for item in told if item.get("event_type") == "ROUND_STARTED"]) == 2
    results = [item for item in told if item.get("event_type") == "CLIENT_RESULT_RECEIVED"]
    assert {item["client"] for item in results} == set(SLOTS)
    assert {item["details"]["size_bytes"] for item in results} == {12}  # three numbers: the head
    steps = {item["result"] for item in told if item.get("label") == "train_steps"}
    assert steps == {3.0}


def test_the_quorum_that_the_api_writes_holds(tmp_path: Path) -> None:
    """A site fails and the job may go on without it, but not below the API's number of trusts: the run fails so."""
    app = write_app(tmp_path / "app", in_train="assert site.name != 'Trust_2'", GLOBAL_ROUNDS=1)
    with federation(tmp_path, app) as there:
        what = Submission(there.hub.model_id, SLOTS, ignore_result_error=True)
        job = submitted_job("standard", app, what, tmp_path / "job")
        command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(tmp_path / "ws"), "-t", "2"]
        environment = scrubbed(FLIP_SETTINGS_DIR=str(there.settings))
        subprocess.run(command, env=environment, capture_output=True, timeout=240, check=False)
        story: Story = there.hub.story()
    assert story.status == "ERROR"
    assert "1 of the 2 sites that the job needs returned" in (story.reason or "")


@pytest.mark.parametrize(
    "job_type", [pytest.param(each, marks=pytest.mark.soak) for each in ("evaluation", "fed_opt", "diffusion_model")]
)
def test_the_other_templates_run_as_the_api_submits_them(job_type: str, tmp_path: Path) -> None:
    """Each comes to its results under the model id that the API wrote, with what config.json alone says.

    fed_opt: the optimizer. diffusion_model: the rounds of both stages. evaluation: the models.
    """
    if job_type == "diffusion_model":
        app = write_staged_app(tmp_path / "app", GLOBAL_ROUNDS_AE=1, GLOBAL_ROUNDS_DM=2)
    elif job_type == "evaluation":
        app = write_evaluation(tmp_path / "app", {"base": {"checkpoint": "linear.pt"}})
    else:
        optimizer = {"name": "sgd", "lr": 0.5, "momentum": 0.0}
        app = write_app(tmp_path / "app", job_type=job_type, in_train=NUMBERED, SERVER_OPTIMIZER=optimizer)
    weighted = {"Trust_1": 1.0, "Trust_2": 1.0}
    bundle, told = run(job_type, app, Submission(uuid4(), SLOTS, aggregation_weights=weighted), tmp_path)
    rounds = [item for item in told if item.get("event_type") == "ROUND_STARTED"]
    if job_type == "diffusion_model":
        assert [item["details"]["stage"] for item in rounds] == ["ae", "dm", "dm"]
    elif job_type == "evaluation":
        log = (tmp_path / "ws" / "server" / "log.txt").read_text()
        assert "model 'base', mean over 2 sites: accuracy" in log
    else:
        torch.manual_seed(0)
        start, found = torch.nn.Linear(3, 1).state_dict(), weights(bundle, "FL_global_model.pt")
        for key, before in start.items():
            torch.testing.assert_close(found[key], before + 0.5 * (1.5 - before))


def script_of(job_type: str, folder: Path) -> Path:
    """A Client-API script that is given the project and the query of the API."""
    given = f"({Submission.project_id!r}, {Submission.query!r})"
    if job_type == "evaluation":
        look = f"assert (args.project_id, client_config['query']) == {given}"
        return write_evaluator_script(folder, {"base": {"checkpoint": "linear.pt"}}, in_evaluate=look)
    if job_type == "diffusion_model":
        return write_staged_script(folder)
    optimizer = {"SERVER_OPTIMIZER": "adam"} if job_type == "fed_opt" else {}
    return write_script_app(
        folder, job_type=job_type, in_train=f"assert (args.project_id, load_query()) == {given}", **optimizer
    )


# Of a script's job, the API's edits of fed_opt and standard are the same, and so is all that is asserted.
@pytest.mark.parametrize(
    "job_type", [pytest.param("standard", marks=pytest.mark.soak), "fed_opt", "evaluation", "diffusion_model"]
)
def test_scripts_run_as_the_api_submits_them(job_type: str, tmp_path: Path) -> None:
    """None knows flip_fl: each is trained and scored as under FLIP's own template, to results under the API's id."""
    bundle, told = run(job_type, script_of(job_type, tmp_path / "app"), Submission(uuid4(), SLOTS), tmp_path)
    metrics = Counter(item["label"] for item in told if item["kind"] == "metric")
    assert [item["status"] for item in told if item["kind"] == "status"][-1] == "RESULTS_UPLOADED"
    if job_type == "evaluation":
        assert metrics == {"base/val_loss": 2, "base/accuracy": 2}
        assert {slot: list(found) for slot, found in read_evaluation(bundle).items()} == {
            slot: ["SRV_base"] for slot in SLOTS
        }
    elif job_type == "diffusion_model":
        assert metrics == {"ae/Total loss": 4, "ae/val_loss": 4, "dm/Total loss": 2, "dm/val_loss": 2}
        assert float(weights(bundle, "FL_global_model.pt")["diffusion_model.bias"][0]) != 0.0
    else:
        assert metrics == {"Train loss (G)": 2, "TRAIN_LOSS": 2, "val_loss": 2, "accuracy": 2}
        assert set(weights(bundle, "FL_global_model.pt")) == {"weight", "bias"}


def test_nvflares_own_evaluation_finds_the_jobs_models_and_its_scores_are_in_the_results(tmp_path: Path) -> None:
    """``model_locator`` and ``json_generator`` are what a workflow of NVFLARE's needs behind our controller."""
    app = write_app(tmp_path / "app", GLOBAL_ROUNDS=1)
    what = Submission(uuid4(), SLOTS)
    prepare(app, tmp_path / "data")
    job = submitted_job("standard", app, what, tmp_path / "job")
    config = json.loads((job / SERVER_CONFIG).read_text())
    path = "nvflare.app_common.workflows.global_model_eval.GlobalModelEval"
    config["workflows"].insert(1, {"id": "scores", "path": path, "args": {"model_locator_id": "model_locator"}})
    (job / SERVER_CONFIG).write_text(json.dumps(config))
    data = {"DEV_DATAFRAME": str(tmp_path / "data" / "cohort.csv"), "DEV_TABULAR": "true"}
    simulate(job, tmp_path / "ws", **data)
    (bundle,) = (tmp_path / "ws").rglob(f"results/{what.model_id}.zip")
    with zipfile.ZipFile(bundle) as archive:
        scores = json.loads(archive.read("cross_site_val/cross_val_results.json"))
        told = json.loads(archive.read("metrics.json"))
    assert set(told["cross_site"]["SRV_FL_global_model"]) == set(SLOTS)
    for slot in SLOTS:
        assert set(scores[slot]["SRV_FL_global_model"]) >= {"loss", "wrong"}
