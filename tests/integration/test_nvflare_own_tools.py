"""Our template and our widget under NVFLARE's own simulator and NVFLARE's own controllers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from flip_fl.dashboard.story import Story
from flip_fl.environment import scrubbed
from flip_fl.jobs.templates import JobValues
from flip_fl.nvflare.job import SERVER_CONFIG, write_job
from flip_fl.reporting.stats import read_stats
from flip_fl.results.verify import read_evaluation
from flip_fl.settings import write_settings_file
from flip_fl.simulate.prepare import prepare
from flip_fl.values import ModelStatus
from tests.support.evaluations import write_evaluation
from tests.support.federation import SLOTS, federation
from tests.support.runs import pending
from tests.support.scripts import write_hello_world
from tests.support.small_apps import write_app
from tests.support.staged_app import write_staged_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

CONTROLLERS = {
    "FedAvg": {
        "id": "controller",
        "path": "nvflare.app_common.workflows.fedavg.FedAvg",
        "args": {"num_clients": 2, "num_rounds": 2, "persistor_id": "persistor"},
    },
    "ScatterAndGather": {
        "id": "controller",
        "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
        "args": {
            "min_clients": 2,
            "num_rounds": 2,
            "wait_time_after_min_received": 0,
            "persistor_id": "persistor",
            "aggregator_id": "aggregator",
            "shareable_generator_id": "shareable_generator",
        },
    },
}


def simulate(job: Path, workspace: Path, slots: str, **environment: str) -> None:
    """NVFLARE's own command."""
    command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(workspace), "-c", slots, "-t", "2"]
    done = subprocess.run(
        command, env=scrubbed(**environment), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def job_with(controller: str, app: Path, model_id: UUID, out: Path) -> Path:
    """The standard job with NVFLARE's own controller in the place of ours."""
    job = write_job(app, "standard", JobValues(model_id=model_id, num_rounds=2, min_clients=2), out)
    config = json.loads((job / SERVER_CONFIG).read_text())
    config["workflows"][0] = CONTROLLERS[controller]
    (job / SERVER_CONFIG).write_text(json.dumps(config))
    return job


def assert_two_rounds(story: Story, end: ModelStatus) -> None:
    """Statuses in order up to ``end``, rounds from 1, two results a round, 2 of 2 aggregated, each site's curve."""
    applied = [each.status.value for each in story.history if each.applied]
    assert applied == ["PENDING", "INITIATED", "PREPARED", "RUNNING", end.value]
    assert [each.number for each in story.rounds] == [1, 2]
    assert [(each.returned, each.expected) for each in story.rounds] == [(2, 2), (2, 2)]
    assert all([cell.state for cell in each.cells] == ["returned", "returned"] for each in story.rounds)
    (losses,) = [plot for plot in story.plots if plot.label == "train_loss"]
    assert [[point.round for point in series.points] for series in losses.series] == [[1, 2], [1, 2]]


# Every day ScatterAndGather tells it with results that cannot be stored, and FedAvg with NVFLARE's own hello world.
@pytest.mark.soak
@pytest.mark.parametrize("controller", CONTROLLERS)
def test_nvflares_own_controllers_tell_the_same_story(controller: str, tmp_path: Path) -> None:
    """Under FedAvg and ScatterAndGather: statuses in order, rounds from 1, two results a round, 2 of 2 aggregated."""
    app = write_app(tmp_path / "app")
    with federation(tmp_path, app) as there:
        job = job_with(controller, app, there.hub.model_id, tmp_path / "job")
        simulate(job, tmp_path / "ws", ",".join(SLOTS), FLIP_SETTINGS_DIR=str(there.settings))
        story: Story = there.hub.story()
    assert_two_rounds(story, ModelStatus.RESULTS_UPLOADED)


def test_results_that_cannot_be_stored_are_no_success(tmp_path: Path) -> None:
    """A bucket that is not there, under ScatterAndGather: the rounds are told, then RESULTS_UPLOAD_FAILED with the
    reason; there are no results at the hub, and the local copies are gone."""
    app = write_app(tmp_path / "app")
    with federation(tmp_path, app) as there:
        server = there.settings / "server.env"
        server.write_text(server.read_text().replace("s3://results", "s3://nowhere"))
        job = job_with("ScatterAndGather", app, there.hub.model_id, tmp_path / "job")
        simulate(job, tmp_path / "ws", ",".join(SLOTS), FLIP_SETTINGS_DIR=str(there.settings))
        story = there.hub.story()
    assert_two_rounds(story, ModelStatus.RESULTS_UPLOAD_FAILED)
    assert "Unexpected failure uploading results to S3" in (story.reason or "")
    assert story.results is None
    assert not list((tmp_path / "ws").rglob("*.zip"))
    assert not list((tmp_path / "ws").rglob("*.npz"))


def app_of(job_type: str, folder: Path) -> Path:
    if job_type == "diffusion_model":
        return write_staged_app(folder)
    return write_app(folder, job_type=job_type)


@pytest.mark.parametrize(
    "job_type", ["standard", *(pytest.param(each, marks=pytest.mark.soak) for each in ("fed_opt", "diffusion_model"))]
)
def test_the_template_runs_without_a_hub_and_keeps_its_story(job_type: str, tmp_path: Path) -> None:
    """In development, without any setting of a hub, the job runs, its bundle and its story stay in the workspace.

    What the template itself says holds where the job says nothing: one round; of two stages, config.json's.
    """
    app = app_of(job_type, tmp_path / "app")
    settings = json.loads((app / "config.json").read_text())
    (app / "config.json").write_text(json.dumps({**settings, "BEST_MODEL_METRIC": "dice"}))
    data = tmp_path / "data"
    prepare(app, data)
    model_id = uuid4()
    job = write_job(app, job_type, JobValues(model_id=model_id, num_rounds=1, min_clients=2), tmp_path / "job")
    workspace = tmp_path / "ws"
    simulate(job, workspace, "site-1,site-2", DEV_DATAFRAME=str(data / "cohort.csv"), DEV_TABULAR="true")
    assert list(workspace.rglob(f"results/{model_id}.zip"))
    (outbox,) = workspace.rglob(f"{model_id}.sqlite")
    assert read_stats(outbox).pending > 0
    rounds = [item for _, item in pending(outbox) if item.get("event_type") == "ROUND_STARTED"]
    stages = ["ae", "ae", "dm", "dm"] if job_type == "diffusion_model" else [None]
    assert [item["details"].get("stage") for item in rounds] == stages
    failures = [item["log"] for _, item in pending(outbox) if item.get("success") is False and item.get("log")]
    assert [text for text in failures if text.startswith("no round was kept as the best: no site validated dice")]


def test_nvflares_hello_world_runs_under_its_own_controller(tmp_path: Path) -> None:
    """Its client, its FedAvg and our executor and reporter: the same statuses and rounds as of a neutral app."""
    app = write_hello_world(tmp_path / "app", GLOBAL_ROUNDS=2)
    with federation(tmp_path, app) as there:
        job = job_with("FedAvg", app, there.hub.model_id, tmp_path / "job")
        simulate(job, tmp_path / "ws", ",".join(SLOTS), FLIP_SETTINGS_DIR=str(there.settings))
        story: Story = there.hub.story()
    applied = [each.status.value for each in story.history if each.applied]
    assert applied == ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]
    assert [(each.returned, each.expected) for each in story.rounds] == [(2, 2), (2, 2)]
    (scores,) = [plot for plot in story.plots if plot.label == "accuracy"]
    assert [[point.round for point in series.points] for series in scores.series] == [[1], [1]]
    assert [each.number for each in story.rounds] == [1, 2]
    assert all([cell.state for cell in each.cells] == ["returned", "returned"] for each in story.rounds)


def test_an_evaluation_runs_without_a_hub_from_checkpoints_on_the_server(tmp_path: Path) -> None:
    """In development the weights lie in SERVER_CHECKPOINT_ROOT alone; results and story stay in the workspace."""
    models = {"base": {"checkpoint": "linear.pt"}, "wide": {"checkpoint": "wide.pt", "path": "wide"}}
    app = write_evaluation(tmp_path / "app", models)
    data, model_id = tmp_path / "data", uuid4()
    prepare(app, data)
    kept = tmp_path / "checkpoints" / str(model_id)
    kept.mkdir(parents=True)
    for checkpoint in app.glob("*.pt"):
        checkpoint.rename(kept / checkpoint.name)
    job = write_job(app, "evaluation", JobValues(model_id=model_id, num_rounds=2, min_clients=2), tmp_path / "job")
    workspace = tmp_path / "ws"
    environment = {"DEV_DATAFRAME": str(data / "cohort.csv"), "SERVER_CHECKPOINT_ROOT": str(tmp_path / "checkpoints")}
    simulate(job, workspace, "site-1,site-2", DEV_TABULAR="true", **environment)
    (bundle,) = workspace.rglob(f"results/{model_id}.zip")
    results = read_evaluation(bundle)
    assert {site: set(found) for site, found in results.items()} == {
        site: {"SRV_base", "SRV_wide"} for site in ("site-1", "site-2")
    }
    assert not list(workspace.rglob("*.pt"))


def test_a_half_configured_server_refuses_to_start(tmp_path: Path) -> None:
    """A hub's address without key and bucket ends the job before its first round; the log names both settings."""
    app = write_app(tmp_path / "app")
    job = write_job(app, "standard", JobValues(model_id=uuid4(), num_rounds=1, min_clients=2), tmp_path / "job")
    settings = tmp_path / "settings"
    write_settings_file(settings / "server.env", {"FLIP_API_INTERNAL_URL": "http://127.0.0.1:9/api"})
    command = [
        sys.executable,
        "-m",
        "nvflare.cli",
        "simulator",
        str(job),
        "-w",
        str(tmp_path / "ws"),
        "-n",
        "2",
        "-t",
        "2",
    ]
    environment = scrubbed(os.environ, FLIP_SETTINGS_DIR=str(settings))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode != 0
    log = (tmp_path / "ws" / "server" / "log.txt").read_text()
    assert "INTERNAL_SERVICE_KEY, UPLOADED_FEDERATED_DATA_BUCKET not set" in log
    assert "Sending task" not in log
