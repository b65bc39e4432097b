"""Submitting and aborting, with a scripted engine: once, never beside another job of the model, the hub first."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from flip_fl.app.config import load_config
from flip_fl.errors import FlipError
from flip_fl.jobs.abort import abort
from flip_fl.jobs.decide import EngineRun, EngineState
from flip_fl.jobs.engine import EngineJob, find_job
from flip_fl.jobs.flower_answers import read_job, version_of
from flip_fl.jobs.nvflare import _seconds
from flip_fl.jobs.submit import submit
from flip_fl.jobs.templates import JobValues
from tests.support.reporting import settings
from tests.support.small_apps import write_app

SLOTS = ("Trust_1", "Trust_2")


@dataclass
class Script:
    """An engine that keeps what it is told; ``ends``: how a job that was aborted ends."""

    listed: list[EngineJob] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    ends: EngineState = EngineState.STOPPED
    engine: str = "Flower"
    server: str = "the SuperLink"
    connection: str = "here"
    kit: Path = Path("kits")

    def sites(self) -> list[str]:
        return list(SLOTS)

    def jobs(self) -> list[EngineJob]:
        return list(self.listed)

    def submit(self, folder: Path, token: str) -> str:
        self.told.append(f"submit {folder.name} {token}")
        return f"job-{len(self.told)}"

    def abort(self, job: str) -> None:
        self.told.append(f"abort {job}")
        self.listed = [replace(each, state=self.ends) if each.job == job else each for each in self.listed]

    def logs(self, job: str) -> str:
        return ""

    def look(self, run: str) -> EngineRun:
        return EngineRun(next(each.state for each in self.listed if each.job == run))

    def close(self) -> None:
        """Nothing is open."""


def write(values: JobValues, digest: str, room: Path) -> Path:
    (room / "job").mkdir()
    return room / "job"


def send(engine: Script, app: Path, model: UUID, slots: Sequence[str] = SLOTS, project: str = "p") -> tuple[str, bool]:
    done = submit(engine, load_config(app), slots, model, project, write)
    engine.listed = [EngineJob(done.job, EngineState.RUNNING, "", model, done.digest), *engine.listed]
    return done.digest, done.already


def test_the_same_job_is_submitted_once_while_it_is_there(tmp_path: Path) -> None:
    """Protects from a double submission after an answer that was lost: two jobs of a model would tell rounds twice."""
    engine, app, model = Script(), write_app(tmp_path / "app"), uuid4()
    digest, already = send(engine, app, model)
    assert not already
    assert submit(engine, load_config(app), SLOTS, model, "p", write).already
    assert engine.told == [f"submit job {model}.{digest}.0"]


@pytest.mark.parametrize("change", ["code", "config", "slots", "project"])
def test_another_job_of_a_live_model_is_refused(change: str, tmp_path: Path) -> None:
    """Whatever makes it another job, the live one's report must stay its own."""
    engine, app, model = Script(), write_app(tmp_path / "app"), uuid4()
    send(engine, app, model)
    slots, project = SLOTS, "p"
    if change == "code":
        (app / "models.py").write_text((app / "models.py").read_text() + "\n# another\n")
    elif change == "config":
        (app / "config.json").write_text('{"job_type": "standard", "GLOBAL_ROUNDS": 3, "IMAGING": false}')
    elif change == "slots":
        slots = ("Trust_1",)  # type: ignore[assignment]
    else:
        project = "another"
    with pytest.raises(FlipError) as refused:
        submit(engine, load_config(app), slots, model, project, write)
    assert refused.value.code == "E0544"
    assert "job-1" in refused.value.what
    assert refused.value.fix is not None
    assert "flip-fl job abort job-1 --kit kits" in refused.value.fix


def test_after_its_end_a_job_may_be_submitted_again_as_a_new_one(tmp_path: Path) -> None:
    """An aborted job is submitted again: a token that NVFLARE knows would give the old job's id."""
    engine, app, model = Script(), write_app(tmp_path / "app"), uuid4()
    digest, _ = send(engine, app, model)
    engine.abort("job-1")
    again, already = send(engine, app, model)
    assert (again, already) == (digest, False)
    assert engine.told[-1] == f"submit job {model}.{digest}.1"


def test_a_job_goes_by_its_own_id_and_by_its_newest_of_a_model() -> None:
    """Who aborts by a model's id means the job that runs, not one of last week."""
    model = uuid4()
    old, new = EngineJob("1", EngineState.STOPPED, "", model), EngineJob("2", EngineState.RUNNING, "", model)
    engine = Script([new, old])
    assert find_job(engine, str(model).upper()) is new
    assert find_job(engine, "1") is old
    with pytest.raises(FlipError) as unknown:
        find_job(engine, "3")
    assert (unknown.value.code, unknown.value.fix) == ("E0541", "flip-fl job list --kit kits")


def test_an_abort_reaches_the_engine_also_without_a_hub() -> None:
    """Nothing keeps a job alive that somebody wants stopped; that the hub does not know is said."""
    engine = Script([EngineJob("1", EngineState.RUNNING, "", uuid4())])
    done = abort(engine, engine.listed[0], None, "why", timeout_s=5)
    assert (done.state, done.hub_told, done.why_not) == (
        EngineState.STOPPED,
        False,
        "no settings of the FL server were found",
    )
    assert engine.told == ["abort 1"]
    again = abort(engine, engine.listed[0], None, "why")
    assert again.already
    assert engine.told == ["abort 1"]


def test_an_abort_needs_no_token_and_waits_for_no_hub() -> None:
    """Reading takes a login token, a stop does not: a kit's settings may hold none, and the hub may be away."""
    engine = Script([EngineJob("1", EngineState.RUNNING, "", uuid4())])
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        away = settings(f"http://127.0.0.1:{bound.getsockname()[1]}/api", "key")
        assert away.hub_token is None
        done = abort(engine, engine.listed[0], away, "why", timeout_s=5)
    assert (done.state, done.hub_told, engine.told) == (EngineState.STOPPED, False, ["abort 1"])
    assert "token" not in str(done.why_not).lower()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:00:12.5", 12.5), ("1 day, 1:00:00", 90_000.0), ("12 days, 0:01:00", 1_036_860.0), ("N/A", None), ("", None)],
)
def test_how_long_a_job_of_nvflare_ran_is_read(text: str, seconds: float | None) -> None:
    """A job of more than a day is shown with all of it."""
    assert _seconds(text) == seconds


def test_an_engine_that_does_not_end_a_job_is_waited_for_with_an_end() -> None:
    """The answer tells the engine's last word, and never hangs."""
    engine = Script([EngineJob("1", EngineState.RUNNING)], ends=EngineState.RUNNING)
    done = abort(engine, engine.listed[0], None, "why", timeout_s=0.1)
    assert (done.state, done.why_not) == (EngineState.RUNNING, "the job does not say which model it reports on")


def test_a_flower_run_tells_whose_it_is_by_its_version() -> None:
    """Flower lists a run's version and nothing else that could say which model it is for."""
    model = uuid4()
    row = {"run-id": "7", "status": "finished:stopped", "status-details": "N/A", "elapsed": 61.5}
    row |= {"fab-version": version_of(model, "0123abcd"), "pending-at": "2026-11-29 08:00:00Z"}
    job = read_job(row)
    assert (job.model_id, job.digest, job.state, job.seconds) == (model, "0123abcd", EngineState.STOPPED, 61.5)
    assert job.submitted_at is not None
    foreign = read_job({**row, "fab-version": "1.0.0", "elapsed": 0, "pending-at": "N/A"})
    assert (foreign.model_id, foreign.digest, foreign.submitted_at, foreign.seconds) == (None, None, None, None)
