"""Researcher code that means harm: it reaches nothing that it was not handed, and carries no row out."""

from __future__ import annotations

import os
import socket
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from flip_fl.app.isolation.call import IsolatedCall
from flip_fl.app.isolation.rules import Isolation, Level, offered
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.values import Task
from tests.support.app import ARRAYS, TableSource, metrics_of, notes_of, write_app
from tests.support.hostile import ATTEMPTS, CANARY, write_hostile_app

KEY = "sesame-4f1c"
SPEC = SiteSpec(slot="Trust_1", round=1, total_rounds=3, project_id="project", query="SELECT 1")


class Trust(TableSource):
    """A trust with a folder of studies, as in production: projects and queries count."""

    def __init__(self, studies: Path, **folders: Path) -> None:
        super().__init__(pd.DataFrame({"accession_id": list(folders), "name": CANARY}), folders)
        self.images_root = studies  # type: ignore[assignment]


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Runs a task of an app behind full walls; the app's process ends after the test."""
    assert offered() == (Level.FULL, ""), "LEFT OUT: this kernel has no Landlock or takes no seccomp filter"
    calls: list[IsolatedCall] = []
    sessions: dict[Path, tuple[Session, IsolatedCall]] = {}

    def run_one(
        app: Path, task: Task = Task.TRAIN, *, source: Any = None, wanted: Isolation | None = None, **spec: Any
    ) -> Result:
        if app not in sessions:
            session = Session(app, source or TableSource(), lambda batch: None)
            sessions[app] = session, IsolatedCall(Level.FULL, wanted or Isolation())
            calls.append(sessions[app][1])
        session, call = sessions[app]
        facts = {"slot": "Trust_1", "round": 1, "total_rounds": 3, "project_id": "project", "query": "SELECT 1", **spec}
        return run_task(task, ARRAYS, SiteSpec(**facts), session, call)

    yield run_one
    for call in calls:
        call.close(0.0)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Trust]]:
    """The hostile app, with everything that it looks for really there."""
    monkeypatch.setenv("TRUST_INTERNAL_SERVICE_KEY", KEY)
    settings = tmp_path / "local" / "flip.env"
    settings.parent.mkdir()
    settings.write_text(f"TRUST_INTERNAL_SERVICE_KEY={KEY}\n")
    studies = tmp_path / "studies"
    (studies / "upload").mkdir(parents=True)
    for name in ("mine", "other"):
        (studies / name).mkdir(parents=True)
        (studies / name / "secret.txt").write_text(CANARY)
    with socket.create_server(("127.0.0.1", 0)) as service:
        facts = {
            "key": KEY,
            "key_files": [str(settings)],
            "other_study": str(studies / "other"),
            "port": service.getsockname()[1],
            "engine": os.getpid(),
            "query": "SELECT 1",
            "project": "project",
        }
        app = write_hostile_app(tmp_path / "app", facts)
        source = Trust(studies, mine=studies / "mine")
        # The service would give it: that it is no study of the job's is for the site to say.
        source.studies["other"] = studies / "other"
        yield app, source


def test_no_attempt_has_its_way(run: Run, hostile: tuple[Path, Trust]) -> None:
    """Key, settings, other processes, other studies, sockets, namespaces, other projects: each attempt is refused."""
    app, source = hostile
    result = run(app, source=source)
    assert result.ok, result.failure
    logged = dict(metrics_of(result))
    assert {name: logged.get(name) for name in ATTEMPTS} == dict.fromkeys(ATTEMPTS, 0.0)
    other = Path(source.images_root or "", "other")
    assert [path.name for path in other.iterdir()] == ["secret.txt"]
    assert (other / "secret.txt").read_text() == CANARY


def test_each_attempt_has_its_way_without_walls(hostile: tuple[Path, Trust]) -> None:
    """The attempts are real: in a process without walls most of them work, the key's file and other studies first."""
    app, source = hostile
    session = Session(app, source, lambda batch: None)
    call = IsolatedCall(Level.PROCESS, Isolation())
    try:
        logged = dict(metrics_of(run_task(Task.TRAIN, ARRAYS, SPEC, session, call)))
    finally:
        call.close(0.0)
    works = {name for name in ATTEMPTS if logged.get(name) == 1.0}
    assert {"key_file", "engine_environ", "list_studies", "inet_socket", "write_elsewhere", "signal_engine"} <= works
    assert {"environment", "other_project", "other_query"}.isdisjoint(works)


def test_rows_leave_neither_as_names_nor_in_texts(run: Run, hostile: tuple[Path, Trust]) -> None:
    """Names, axes, values, printed text, made-up types, files and functions: the rules stand outside of the app."""
    app, source = hostile
    trained = run(app, source=source)
    assert CANARY not in repr(trained.events)
    assert CANARY not in repr(trained.metrics)
    assert any("may not leave" in note for note in notes_of(trained))
    failed = run(app, Task.VALIDATE, source=source)
    assert failed.failure is not None
    assert CANARY not in repr(failed.failure)
    assert CANARY not in repr(failed.events)
    assert failed.failure.type == "Exception"
    assert 'File "trainer.py"' in failed.failure.traceback


LYING = """
import json, os, socket, sys

# Made here, as a row's would be: what stands in the app's own source is the researcher's, and no secret.
ROW = "".join(map(chr, [67, 65, 78, 65, 82, 89, 55, 81]))

def speak(**facts):
    import gc
    from flip_fl.app.isolation.channel import Channel
    (channel,) = [each for each in gc.get_objects() if isinstance(each, Channel)]
    channel.say(facts)

def train(model, site, config):
    {attack}
    return {"num_examples": 4, "loss": 0.5}

def validate(model, site, config):
    return {"num_examples": 2, "loss": 0.25}
"""


def lying(attack: str) -> str:
    """A trainer that does this when it trains."""
    return LYING.replace("{attack}", attack)


CHAIN = (
    '{"type": ROW + ".Error", "text": ROW, "places": [["/" + ROW + ".py", 4716253849, ROW]], '
    '"lookup": False, "ours": True, "unparsed": None, "link": ""}'
)


@pytest.mark.parametrize(
    "attack",
    [
        f"speak(kind='failed', number=1, raised=[{CHAIN}], printed=0)",
        "speak(kind='failed', number=1, raised=ROW)",
        "speak(kind='result', number=1, values=ROW, kept=[], printed=0)",
        "speak(kind='result', number=1, values=[[ROW, ['n', 1.0]]], kept=['../../' + ROW], printed=0)",
        "speak(kind='log', label=ROW, value='1.0'); speak(kind='log', label=[ROW], value={}); 1 / 0",
        "speak(kind='log', label='loss', value=ROW, has_x_label=True, x_label=ROW); 1 / 0",
        "speak(kind='ask', ask=ROW, asked='images')",
        "[speak(kind='ask', ask=n, asked='images', names=['mine'], types=['DICOM']) for n in range(9999)]; 1 / 0",
        "[os.write(n, ROW.encode() * 1000) for n in range(4, 30)]",
        "import pickle; speak(kind='result', number=1, values=list(pickle.dumps(ROW)), kept=[], printed=0)",
        "os._exit(3)",
        "os.kill(os.getpid(), 9)",
        "import gc; [each._stream.close() for each in gc.get_objects() if type(each).__name__ == 'Channel']",
    ],
)
def test_whatever_the_app_s_process_says_is_judged_outside(attack: str, run: Run, tmp_path: Path) -> None:
    """Lies, garbage, pickles, silence and death are a failure in the house's words; the next round goes on."""
    trainer = lying(f"if site.round == 1:\n        {attack}")
    app = write_app(tmp_path / "app", trainer=trainer, config={"job_type": "standard", "METRICS": ["loss"]})
    result = run(app)
    assert not result.ok
    assert result.failure is not None
    assert CANARY not in repr(result)
    assert run(app, round=2).ok


def test_a_model_that_could_still_change_is_not_taken(run: Run, tmp_path: Path) -> None:
    """What was checked is what is used: memory that the app can still write to is refused."""
    attack = """
    import flip_fl.app.isolation.handover as handover
    handover._SEALS = 0
    import fcntl
    fcntl.F_SEAL_SEAL = 0
    """
    result = run(write_app(tmp_path / "app", trainer=lying(textwrap.dedent(attack).replace("\n", "\n    "))))
    assert result.failure is not None
    assert "could still be changed" in result.failure.traceback


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        ("while True: os.fork()", "BlockingIOError|more than 20 processes"),
        ("kept = [b'x' * (1 << 24) for _ in range(300)]", "MiB of memory|MemoryError"),
        ("open('large', 'wb').write(bytes(3 << 20))", "OSError|SIGXFSZ|FileTooLarge"),
        ("import time; time.sleep(600)", "minutes that this site lets a task take"),
    ],
)
def test_what_takes_too_much_is_ended(attack: str, said: str, run: Run, tmp_path: Path) -> None:
    """Fork bombs, memory, files and time: the app ends with the reason; the engine and the next task go on."""
    minutes = 0.2 if "sleep" in attack else None
    wanted = Isolation(processes=20, memory_mb=1500, file_mb=2, task_minutes=minutes)
    app = write_app(tmp_path / "app", trainer=lying(f"if site.round == 1:\n        {attack}"))
    begun = time.monotonic()
    failure = run(app, wanted=wanted).failure
    assert failure is not None
    assert any(each in failure.traceback for each in said.split("|")), failure.traceback
    assert time.monotonic() - begun < 300
    assert run(app, wanted=wanted, round=2).ok


def test_workers_of_a_data_loader_run_behind_the_walls(run: Run, tmp_path: Path) -> None:
    """What honest apps do works: several workers, temporary files, threads, a subprocess."""
    honest = """
    import subprocess, tempfile, threading, torch
    from torch.utils.data import DataLoader, TensorDataset
    batches = list(DataLoader(TensorDataset(torch.arange(40.0)), batch_size=8, num_workers=2))
    assert float(sum(batch[0].sum() for batch in batches)) == 780.0
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x")
    assert subprocess.run(["true"]).returncode == 0
    """
    code = textwrap.dedent(honest).replace("\n", "\n    ")
    result = run(write_app(tmp_path / "app", trainer=lying(code)))
    assert result.ok, result.failure


def test_an_app_gets_its_own_studies_and_no_others(run: Run, hostile: tuple[Path, Trust], tmp_path: Path) -> None:
    """A study of the cohort is fetched and can be read; one that is not in it is skipped as refused."""
    _, source = hostile
    source.frame = pd.DataFrame({"accession_id": ["mine"], "person_id": ["P1"]})
    source.studies["other"] = source.studies["mine"].parent / "other"
    trainer = """
    import pandas as pd

    def train(model, site, config):
        studies = site.images(site.cohort(), "DICOM")
        (folder,) = studies["mine"].values()
        site.log("read", float((folder / "secret.txt").read_text() == "CANARY7Q"))
        more = site.images(pd.DataFrame({"accession_id": ["mine", "other"]}), "DICOM", wait=False)
        (folder.parent / "upload" / "made.nii").write_text("a segmentation")
        try:
            list((folder.parent / "upload").iterdir())
            site.log("listed", 1.0)
        except PermissionError:
            site.log("listed", 0.0)
        site.log("others", float(sum(study.accession_id != "mine" for study in more.arriving())))
        return {"num_examples": 4, "loss": 0.5}

    def validate(model, site, config):
        return {"num_examples": 2, "loss": 0.25}
    """
    config = {"job_type": "standard", "IMAGING": True, "MAX_SKIPPED": 0.9}
    result = run(write_app(tmp_path / "fetches", trainer=trainer, config=config), source=source)
    assert result.ok, result.failure
    assert dict(metrics_of(result))["read"] == 1.0
    assert dict(metrics_of(result))["others"] == 0.0
    # What it makes for add_resource it may put where the service takes it from, and see nothing of others there.
    assert dict(metrics_of(result))["listed"] == 0.0
    assert Path(source.images_root or "", "upload", "made.nii").read_text() == "a segmentation"
    assert any("refused" in note for note in notes_of(result))


def test_walled_and_not_walled_compute_the_same(run: Run, tmp_path: Path) -> None:
    """The walls change nothing of a result: weights, metrics and reports are equal to the last bit."""
    app = write_app(tmp_path / "app")
    walled = run(app)
    plain = run_task(Task.TRAIN, ARRAYS, SPEC, Session(app, TableSource(), lambda batch: None))
    assert walled.ok, walled.failure
    for name, array in plain.arrays.items():
        np.testing.assert_array_equal(walled.arrays[name], array)
    assert metrics_of(walled) == metrics_of(plain)
