"""A run on Flower whose server process is lost: what a second start of it makes of the first one's rounds."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from flip_fl.environment import scrubbed
from flip_fl.flower.job import write_job
from flip_fl.jobs.templates import JobValues
from flip_fl.results.s3 import ResultsStore
from flip_fl.settings import ServerSettings, load, write_settings_file
from flip_fl.simulate.prepare import prepare
from flip_fl.values import ModelStatus
from tests.support.bundles import weights_of
from tests.support.federation import SLOTS, federation
from tests.support.small_apps import write_app
from tests.support.staged_app import write_staged_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

ROUNDS = 6


def start(job: Path, settings: Path, logs: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The job on the in-process grid, as a process of its own."""
    logs.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "flip_fl.flower.local", str(job), "--slots", ",".join(SLOTS)]
    with (logs / "server.log").open("ab") as out:
        return subprocess.Popen(
            [*command, "--log-dir", str(logs)],
            env=scrubbed(FLIP_SETTINGS_DIR=str(settings), OMP_NUM_THREADS="1", **environment),
            stdout=out,
            stderr=subprocess.STDOUT,
        )


def wait_for(condition: Callable[[], Any], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def lists_of(bundle: Path) -> dict[str, Any]:
    """The global model of a bundle, as lists of numbers."""
    return {name: tensor.tolist() for name, tensor in weights_of(bundle).items()}


def undisturbed(app: Path, job_type: str, folder: Path) -> dict[str, Any]:
    """The model of the same job run without a hub and without a fault."""
    data, settings, model_id = folder / "data", folder / "settings", uuid4()
    data.mkdir(parents=True)
    prepare(app, data)
    for slot in SLOTS:
        values = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(data / "cohort.csv"), "DEV_TABULAR": "true"}
        write_settings_file(settings / f"{slot}.env", {**values, "FLIP_STATE_DIR": str(folder / slot)})
    job = write_job(app, job_type, JobValues(model_id=model_id, num_rounds=ROUNDS, min_clients=2), folder / "job")
    assert start(job, settings, folder / "logs", FLWR_HOME=str(folder / "home")).wait(120) == 0
    return lists_of(folder / "home" / "flip-state" / "results" / f"{model_id}.zip")


def app_of(job_type: str, folder: Path) -> Path:
    """An app of six rounds that leave time to be killed in; of two stages, the second begins with round 4."""
    slow = "import time; time.sleep(0.4)"
    if job_type == "standard":
        return write_app(folder, in_train=slow, GLOBAL_ROUNDS=ROUNDS)
    return write_staged_app(folder, in_train=slow, GLOBAL_ROUNDS_AE=3, GLOBAL_ROUNDS_DM=3)


@pytest.mark.parametrize("job_type", ["standard", pytest.param("diffusion_model", marks=pytest.mark.soak)])
def test_a_killed_run_goes_on_at_the_next_round_and_ends_with_the_same_model(job_type: str, tmp_path: Path) -> None:
    """kill -9 of the server in round 4 of 6, then the same start again: the hub's rounds count on to 6, each told
    complete, every status once, every point once, and the model is that of a run that nothing happened to. In a job of
    two stages the second has just begun."""
    app = app_of(job_type, tmp_path / "app")
    with federation(tmp_path, app) as there:
        values = JobValues(model_id=there.hub.model_id, num_rounds=ROUNDS, min_clients=2, slots=SLOTS)
        job = write_job(app, job_type, values, tmp_path / "job")
        first = start(job, there.settings, tmp_path / "logs")
        wait_for(lambda: len(there.hub.story().rounds) >= 4 or first.poll() is not None)
        first.kill()
        first.wait()
        cut = there.hub.story()
        assert cut.status is ModelStatus.RUNNING, (tmp_path / "logs" / "server.log").read_text()[-3000:]
        second = start(job, there.settings, tmp_path / "logs")
        assert second.wait(120) == 0, (tmp_path / "logs" / "server.log").read_text()[-3000:]
        story = there.hub.story()
        assert story.results is not None
        bundle = tmp_path / "results.zip"
        ResultsStore(load(ServerSettings, there.settings / "server.env")).download(story.results.address, bundle)
        left = [path for path in (there.state / "flower").rglob("*") if path.is_file()]
    assert story.status is ModelStatus.RESULTS_UPLOADED
    assert [each.status.value for each in story.history if each.applied] == [
        "PENDING",
        "INITIATED",
        "PREPARED",
        "RUNNING",
        "RESULTS_UPLOADED",
    ]
    assert [each.number for each in story.rounds] == list(range(1, ROUNDS + 1))
    assert all((each.returned, each.expected) == (2, 2) for each in story.rounds)
    assert all([cell.state for cell in each.cells] == ["returned", "returned"] for each in story.rounds)
    (resumed,) = [row.text for row in story.feed if "goes on after round" in row.text]
    assert "its server process was lost" in resumed
    for plot in story.plots:
        for series in plot.series:
            rounds = [point.round for point in series.points]
            own = {"ae": range(1, 4), "dm": range(4, 7)}.get(plot.label.partition("/")[0], range(1, ROUNDS + 1))
            times = {"ae/step_loss": 2, "dm/step_loss": 3}.get(plot.label, 1)
            assert sorted(rounds) == [number for number in own for _ in range(times)], (plot.label, series.slot)
    assert left == [], "a run that has ended leaves no checkpoint"
    assert lists_of(bundle) == undisturbed(app, job_type, tmp_path / "undisturbed")
