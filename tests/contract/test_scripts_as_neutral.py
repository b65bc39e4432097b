"""One set of expectations for the two forms of one app: functions of ours, and an NVFLARE Client-API script."""

from __future__ import annotations

import os
import signal
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from flip_fl.aggregate.differences import restored
from flip_fl.app.forms import form_of
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.script import Script
from flip_fl.app.site import SiteSpec
from flip_fl.simulate.prepare import prepare
from flip_fl.values import Task
from tests.support.app import TableSource, metrics_of, notes_of
from tests.support.scripts import write_neutral_twin, write_script_app

HOST = "flip_fl.nvflare.script_host"
ARRAYS = {"weight": np.zeros((1, 3), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}
SCRIPT_START_S = 60.0

# Each starts a script with torch and NVFLARE.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]


class Site:
    """A site with one app, whichever form it has."""

    def __init__(self, app: Path, data: Path) -> None:
        self.frame = pd.read_csv(data / "cohort.csv")
        self.stopped = False
        self.session = Session(app, TableSource(self.frame), lambda batch: None, lambda: self.stopped)
        form = form_of(app)
        own = {"LOCAL_DEV": "true", "DEV_DATAFRAME": str(data / "cohort.csv"), "DEV_TABULAR": "true"}
        self.script = Script(form, HOST, "a-job", environment=own) if form.kind == "client_api" else None

    def run(self, task: Task, arrays: Any = ARRAYS, round: int = 1, **spec: Any) -> Result:
        facts = {"slot": "Trust_1", "round": round, "total_rounds": 3, "seed": 5, **spec}
        return run_task(task, arrays, SiteSpec(**facts), self.session, self.script)

    def close(self) -> None:
        if self.script is not None:
            self.script.close()
        self.session.release()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    prepare(write_neutral_twin(folder / "app"), folder)
    return folder


@pytest.fixture
def sites() -> Iterator[list[Site]]:
    """The sites that a test opens; closed after it. ``FLIP()`` finds the data as at a simulated site."""
    opened: list[Site] = []
    yield opened
    for site in opened:
        site.close()


@pytest.fixture
def opened(sites: list[Site], data: Path) -> Any:
    def open_site(app: Path) -> Site:
        sites.append(Site(app, data))
        return sites[-1]

    return open_site


def script(tmp_path: Path, **given: Any) -> Path:
    return write_script_app(tmp_path / "custom", **given)


def inside(statements: str) -> str:
    """``statements`` as they stand in the script's loop."""
    return textwrap.indent(textwrap.dedent(statements).strip(), " " * 12).strip()


def logged(result: Result) -> list[tuple[Any, ...]]:
    names = ("label", "result", "global_round", "x_value", "x_label", "task")
    return [tuple(event[name] for name in names) for event in result.events if event["kind"] == "metric"]


def test_the_same_computation_gives_the_same_model_and_the_same_reports(opened: Any, tmp_path: Path) -> None:
    """Over two rounds with validation: weights equal to 1e-6, metrics under the same labels, rounds and axes."""
    found = {}
    for name, write in (("script", write_script_app), ("neutral", write_neutral_twin)):
        site = opened(write(tmp_path / name / "custom", LOCAL_ROUNDS=2))
        arrays, reports, examples = dict(ARRAYS), [], []
        for round in (1, 2):
            trained = site.run(Task.TRAIN, arrays, round)
            assert trained.ok, trained.failure
            arrays = restored(arrays, trained.arrays) if trained.params_type == "DIFF" else trained.arrays
            scored = site.run(Task.VALIDATE, arrays, round)
            assert scored.ok, scored.failure
            reports += [*logged(trained), *logged(scored)]
            examples += [trained.num_examples, scored.num_examples]
        found[name] = arrays, reports, examples, scored.metrics
    (ours, told, counted, scores), (theirs, said, stated, results) = found["neutral"], found["script"]
    for name in ARRAYS:
        np.testing.assert_allclose(theirs[name], ours[name], rtol=0, atol=1e-6)
        assert not np.array_equal(theirs[name], ARRAYS[name])
    assert [each[:1] + each[2:] for each in said] == [each[:1] + each[2:] for each in told]
    np.testing.assert_allclose([each[1] for each in said], [each[1] for each in told], atol=1e-6)
    assert stated == counted
    assert results == pytest.approx(scores, abs=1e-6)
    assert ("Train loss (G)", 4.0, "epoch") in [(each[0], *each[3:5]) for each in said]


ONCE = """
import nvflare.client as flare

flare.init()
model = flare.receive()
flare.send(flare.FLModel(params=model.params, metrics={"loss": 0.5}))
"""
RAISE = "raise ValueError('no such backend')"


@pytest.mark.parametrize(
    ("given", "headline", "place"),
    [
        ({"at_import": RAISE}, "ValueError: no such backend", 'File "trainer.py", line'),
        ({"at_import": "import no_such_package"}, "No module named", 'File "trainer.py", line'),
        ({"in_train": RAISE}, "ValueError: no such backend", 'File "trainer.py", line'),
        ({"in_train": "import sys; sys.exit(1)"}, "SystemExit", 'File "trainer.py", line'),
        ({"in_train": "return"}, "without a result", "trainer.py ended in round 1"),
        ({"in_train": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"}, "killed by SIGKILL", "trainer.py"),
        ({"in_train": "continue"}, "was not answered", 'File "trainer.py", line'),
        ({"in_train": "flare.send('nothing')"}, "TypeError", 'File "trainer.py", line'),
        ({"in_train": "flare.send(flare.FLModel(metrics={'a': 1.0})); continue"}, "sent no params", "trainer.py"),
        ({"at_import": "import broken", "files": {"broken.py": "def broken(:"}}, "SyntaxError", "broken.py, line 1"),
    ],
)
def test_whatever_ends_a_script_is_a_failure_at_once(
    given: dict[str, Any], headline: str, place: str, opened: Any, tmp_path: Path
) -> None:
    """A raise, a bad import, an exit, an early return, a kill, a model that is not answered: file, line and reason."""
    result = opened(script(tmp_path, **given)).run(Task.TRAIN)
    assert result.failure is not None
    assert headline in result.failure.traceback
    assert place in result.failure.traceback
    assert str(tmp_path) not in result.failure.traceback


def test_values_of_rows_do_not_leave_with_a_failure(opened: Any, tmp_path: Path) -> None:
    """A message made of a row is withheld, as in a neutral app; the code's own words stay."""
    app = script(tmp_path, in_train="raise KeyError(frame['person_id'].iloc[0])")
    failure = opened(app).run(Task.TRAIN).failure
    assert failure is not None
    assert failure.type == "KeyError"
    assert "<value>" in failure.headline
    assert "ROWP" not in failure.traceback


def test_a_script_that_failed_is_started_again_and_one_that_ended_is_not(opened: Any, tmp_path: Path) -> None:
    """With IGNORE_RESULT_ERROR a site is asked again: a crash is over then, a script without a loop stays one."""
    fails_once = inside("""
        if input_model.current_round == 0:
            raise ValueError("x")
    """)
    site = opened(script(tmp_path, in_train=fails_once))
    assert site.run(Task.TRAIN).failure is not None
    assert site.run(Task.TRAIN, round=2).ok


def test_without_a_loop_the_second_task_says_what_to_write(opened: Any, tmp_path: Path) -> None:
    """A script that answers one model and returns: its result counts, the next task is refused with the reason."""
    site = opened(script(tmp_path, trainer=ONCE))
    first = site.run(Task.TRAIN)
    assert first.ok
    np.testing.assert_array_equal(first.arrays["weight"], ARRAYS["weight"])
    second = site.run(Task.TRAIN, round=2).failure
    assert second is not None
    assert "flare.is_running()" in second.headline


@pytest.mark.parametrize(("wanted", "sent"), [("FULL", "DIFF"), ("DIFF", "FULL")])
def test_params_of_the_other_kind_are_one_report_that_says_what_to_change(
    wanted: str, sent: str, opened: Any, tmp_path: Path
) -> None:
    """Whole weights where PARAMS_TYPE wants differences, and the reverse."""
    send = f"flare.send(flare.FLModel(params=model.state_dict(), params_type='{sent}')); continue"
    failure = opened(script(tmp_path, in_train=send, PARAMS_TYPE=wanted)).run(Task.TRAIN).failure
    assert failure is not None
    assert f'params_type="{wanted}"' in failure.traceback
    assert f'set PARAMS_TYPE to "{sent}"' in failure.traceback


def test_a_stop_ends_the_script_with_all_that_it_started(opened: Any, tmp_path: Path) -> None:
    """A training that never comes back and a copy of it are gone when the run is stopped; the task is aborted."""
    hangs = "import os, time; os.fork(); open(f'pid-{os.getpid()}', 'w').close(); time.sleep(600)"
    site = opened(script(tmp_path, in_train=hangs))
    pids: list[int] = []

    def stop() -> None:
        deadline = time.monotonic() + SCRIPT_START_S
        while len(pids) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
            process = site.script._process
            if process is not None:
                pids[:] = [int(path.name.removeprefix("pid-")) for path in process.folder.glob("pid-*")]
        site.stopped = True

    threading.Thread(target=stop).start()
    result = site.run(Task.TRAIN)
    assert result.aborted
    assert len(pids) == 2
    deadline = time.monotonic() + 60
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in pids)


def test_a_dead_script_is_noticed_though_a_copy_of_it_lives(opened: Any, tmp_path: Path) -> None:
    """A forked child holds whatever it inherited: the failure does not wait for it."""
    dies = inside("""
        import os, time, signal
        if os.fork() == 0:
            time.sleep(600)
        os.kill(os.getpid(), signal.SIGKILL)
    """)
    result = opened(script(tmp_path, in_train=dies)).run(Task.TRAIN)
    assert result.failure is not None
    assert "SIGKILL" in result.failure.headline


def test_a_forked_copy_that_comes_to_the_end_says_nothing(opened: Any, tmp_path: Path) -> None:
    """The copy returns from the script, the script itself answers: one result, and no failure."""
    forks = inside("""
        import os
        if os.fork() == 0:
            return
    """)
    assert opened(script(tmp_path, in_train=forks)).run(Task.TRAIN).ok


def test_a_script_without_its_site_ends(opened: Any, tmp_path: Path) -> None:
    """When the site's process is gone, nobody would end the script: it ends itself, at work or waiting."""
    site = opened(script(tmp_path))
    assert site.run(Task.TRAIN).ok
    process = site.script._process
    assert process is not None
    process._channel.shutdown(2)
    process._process.wait(60)
    assert process._process.returncode == -signal.SIGKILL


def test_floods_of_prints_and_numbers_hold_nothing_up(opened: Any, tmp_path: Path) -> None:
    """200,000 printed lines, raw writes too, are counted or dropped; 3,000 numbers logged one by one all arrive."""
    floods = inside("""
        import os
        print("CANARY7Q\\n" * 200_000)
        os.write(1, b"CANARY7Q" * 100_000)
        for step in range(3_000):
            writer.add_scalar("flood@step", step, step)
    """)
    result = opened(script(tmp_path, in_train=floods)).run(Task.TRAIN)
    assert result.ok
    flood = [event for event in result.events if event.get("label") == "flood"]
    assert [event["x_value"] for event in flood] == list(range(3_000))
    (withheld,) = [note for note in notes_of(result) if "withheld" in note]
    assert int(withheld.split()[0]) > 200_000
    assert "CANARY7Q" not in str(result)


def test_only_numbers_leave_of_what_is_logged(opened: Any, tmp_path: Path) -> None:
    """Scalars and groups of them arrive; texts, odd names and NaN are told, not stored."""
    logs = """
            from nvflare.client.tracking import MLflowWriter
            writer.add_scalars('auc', {'left': 0.5, 'right': torch.tensor(0.25)}, 7)
            writer.add_scalar('nan', float('nan'))
            writer.add_scalar('NHS 9434765919', 1.0)
            flare.log('plain', np.float32(0.5), flare.AnalyticsDataType.SCALAR)
            MLflowWriter().log_text('patient Smith', 'a.txt')
            MLflowWriter().log_metrics({'f1': 0.75}, 3)
    """.strip()
    result = opened(script(tmp_path, in_train=logs, LOCAL_ROUNDS=1)).run(Task.TRAIN)
    assert result.ok, result.failure
    found = dict(metrics_of(result))
    assert {name: found[name] for name in ("auc/left", "auc/right", "plain", "f1")} == {
        "auc/left": 0.5,
        "auc/right": 0.25,
        "plain": 0.5,
        "f1": 0.75,
    }
    notes = "\n".join(notes_of(result))
    assert "is nan: not stored" in notes
    assert "a name that may not leave the trust" in notes
    assert "beside numbers" in notes
    assert not any(value in str(result.events) for value in ("Smith", "9434765919"))


def test_a_script_that_does_not_validate_scores_the_round_before(opened: Any, tmp_path: Path) -> None:
    """What it returns with its weights was measured on the model that it received; the starting weights' is dropped."""
    text = """
import nvflare.client as flare
flare.init()
while flare.is_running():
    model = flare.receive()
    flare.send(flare.FLModel(params=model.params, metrics={"accuracy": 0.5}, meta={"NUM_STEPS_CURRENT_ROUND": 4}))
"""
    site = opened(script(tmp_path, trainer=text))
    assert not site.script.form.validates
    first, second = site.run(Task.TRAIN), site.run(Task.TRAIN, round=2)
    assert (first.ok, first.metrics, logged(first)) == (True, {}, [])
    assert (second.metrics, second.num_examples) == ({"accuracy": 0.5}, 4)
    assert logged(second) == [("accuracy", 0.5, 1, None, None, "validate")]


def test_the_environment_of_a_script_holds_no_key(opened: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys of the site's process, and the folder of other processes' settings, are not in the script's."""
    monkeypatch.setenv("TRUST_INTERNAL_SERVICE_KEY", "top-secret")
    monkeypatch.setenv("FLIP_SETTINGS_DIR", "/somewhere")
    looks = "import os; assert 'TRUST_INTERNAL_SERVICE_KEY' not in os.environ and 'FLIP_SETTINGS_DIR' not in os.environ"
    assert opened(script(tmp_path, in_train=looks)).run(Task.TRAIN).ok


def test_the_new_place_of_each_name_is_said_once(opened: Any, tmp_path: Path) -> None:
    """``from flip import FLIP`` is answered, and the first task's reports say how it is written today."""
    site = opened(script(tmp_path))
    notes = [note for round in (1, 2) for note in notes_of(site.run(Task.TRAIN, round=round)) if "write:" in note]
    assert notes == ["flip.FLIP is flip_fl's here; write: from flip_fl import FLIP"]


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_script_s_folder_stays_as_it_was(opened: Any, tmp_path: Path) -> None:
    """No byte code and nothing else appears in the app's folder."""
    app = script(tmp_path)
    before = sorted(os.listdir(app))
    assert opened(app).run(Task.TRAIN).ok
    assert sorted(os.listdir(app)) == before
