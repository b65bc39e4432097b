"""The simulator's parts that need no engine: folders, environments, processes, news."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from flip_fl.app.config import load_config
from flip_fl.dashboard.story import Cell, Plot, Point, Series, Story, StoryModel, StoryRound, StorySite
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.settings import environment_names
from flip_fl.simulate.folder import claim
from flip_fl.simulate.model import Progress
from flip_fl.simulate.prepare import prepare
from flip_fl.simulate.processes import descendants, engine_ending, free_ports, running, start, wait_until
from flip_fl.simulate.results import difference
from flip_fl.simulate.sites import Data, given_data, split
from flip_fl.simulate.watch import OnlyChanges, news, trained, waits_for_sites
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from tests.support.small_apps import write_app

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LOSS = {"Trust_1": {"loss"}}


class TestFolder:
    """Which folder a run may write to."""

    def test_a_repeated_run_starts_empty(self, tmp_path: Path) -> None:
        """A folder that a run wrote is emptied, hidden files and subfolders included."""
        with claim(tmp_path / "run", tmp_path) as first:
            (first.results / "old.zip").write_text("old")
        with claim(tmp_path / "run", tmp_path) as second:
            assert list(second.results.iterdir()) == []

    def test_a_folder_with_other_things_is_not_touched(self, tmp_path: Path) -> None:
        """Pointing --out at one's home folder must not cost anything."""
        precious = tmp_path / "thesis.tex"
        precious.write_text("years")
        with pytest.raises(FlipError) as refused, claim(tmp_path, tmp_path):
            pass
        assert refused.value.code == "E0508"
        assert precious.read_text() == "years"

    def test_a_link_in_a_runs_folder_is_removed_and_not_followed(self, tmp_path: Path) -> None:
        """Emptying a run's folder leaves what a link in it points to."""
        outside = tmp_path / "outside"
        outside.mkdir()
        (outside / "kept").write_text("kept")
        with claim(tmp_path / "run", tmp_path) as first:
            (first.root / "link").symlink_to(outside)
        with claim(tmp_path / "run", tmp_path):
            assert (outside / "kept").read_text() == "kept"

    def test_state_is_for_its_owner_alone(self, tmp_path: Path) -> None:
        """Settings with keys lie below a folder that nobody else can enter."""
        with claim(tmp_path / "run", tmp_path) as folder:
            assert folder.state.stat().st_mode & 0o077 == 0

    def test_two_runs_never_share_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A live run's folder is refused; default names of the same second differ."""
        monkeypatch.chdir(tmp_path)
        with claim(tmp_path / "run", tmp_path), pytest.raises(FlipError) as refused, claim(tmp_path / "run", tmp_path):
            pass
        assert refused.value.code == "E0512"
        with claim(None, tmp_path) as one, claim(None, tmp_path) as other:
            assert one.root != other.root


class TestGivenData:
    """What is checked of --data and --images before an earlier run's folder is emptied."""

    def test_data_in_the_runs_own_folder_is_refused(self, tmp_path: Path) -> None:
        """Running again on what an earlier run has prepared must not delete it."""
        app = write_app(tmp_path / "app")
        with claim(tmp_path / "run", app) as folder:
            cohort = folder.state / "cohort.csv"
            cohort.write_text("person_id,label")
        with pytest.raises(FlipError) as refused:
            given_data(load_config(app), cohort, None, tmp_path / "run")
        assert refused.value.code == "E0513"
        assert cohort.is_file()

    def test_a_path_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        """A typo in --data or --images is told with the path, before anything is written."""
        config = load_config(write_app(tmp_path / "app"))
        with pytest.raises(FlipError) as refused:
            given_data(config, tmp_path / "cohrt.csv", None, None)
        assert "cohrt.csv is not a file" in refused.value.what
        (tmp_path / "cohort.csv").write_text("person_id,label")
        with pytest.raises(FlipError) as refused:
            given_data(config, tmp_path / "cohort.csv", tmp_path / "scans", None)
        assert "scans is not a folder" in refused.value.what


def test_no_setting_and_no_secret_is_inherited() -> None:
    """What the simulator starts sees no FLIP setting, no AWS variable and nothing named like a key."""
    dirty = dict.fromkeys(environment_names(), "x")
    dirty |= {"AWS_PROFILE": "x", "FLIP_ANYTHING": "x", "GITHUB_TOKEN": "x", "DB_PASSWORD": "x", "PATH": "/bin"}
    assert scrubbed(dirty, OMP_NUM_THREADS="1") == {"PATH": "/bin", "OMP_NUM_THREADS": "1"}


class TestProcesses:
    """Starting and ending what a run needs."""

    def test_everything_a_child_started_ends_with_it(self, tmp_path: Path) -> None:
        """A grandchild in a session of its own, deaf to SIGTERM, is gone after the block."""
        grandchild = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        code = (
            "import subprocess, sys, time;"
            f"subprocess.Popen([sys.executable, '-c', {grandchild!r}], start_new_session=True); time.sleep(600)"
        )
        child = start("a parent", [sys.executable, "-c", code], tmp_path / "log")
        with running(child, grace_s=0.2):
            wait_until(child, lambda: bool(descendants(child.process.pid)), 30)
            family = [child.process.pid, *(each.pid for each in descendants(child.process.pid))]
        assert len(family) == 2
        assert not [pid for pid in family if psutil.pid_exists(pid)]

    def test_a_child_that_ends_at_its_start_is_named_with_its_log(self, tmp_path: Path) -> None:
        """A port that is taken, a missing library: the error says which part, its exit code and its log."""
        child = start("the hub", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "hub.log")
        with pytest.raises(FlipError) as failed:
            wait_until(child, lambda: False, 30)
        assert "the hub ended at its start" in failed.value.what
        assert "exit code 3" in failed.value.why
        assert str(tmp_path / "hub.log") in failed.value.fix

    def test_a_program_that_is_not_there_is_named(self, tmp_path: Path) -> None:
        """A command that cannot be started is an error of ours, not a traceback."""
        with pytest.raises(FlipError) as failed:
            start("the object store", [str(tmp_path / "nothing")], tmp_path / "log")
        assert "the object store cannot be started" in failed.value.what

    def test_ports_differ(self) -> None:
        """Ports asked for together are never the same one."""
        assert len(set(free_ports(20))) == 20

    def test_sigterm_is_an_orderly_end(self, tmp_path: Path) -> None:
        """SIGTERM to the run's process raises KeyboardInterrupt in it, so that its children are ended, too."""
        code = (
            "import sys, time; from pathlib import Path;"
            "from flip_fl.simulate.processes import start, running, terminable\n"
            "try:\n"
            "  with terminable(), running(start('child', [sys.executable, '-c', 'import time; time.sleep(600)'],"
            f" Path({str(tmp_path / 'log')!r}))) as child:\n"
            "    print(child.process.pid, flush=True); time.sleep(600)\n"
            "except KeyboardInterrupt: sys.exit(130)"
        )
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
        assert not psutil.pid_exists(pid)


def test_a_failing_prepare_is_told_with_its_last_line(tmp_path: Path) -> None:
    """What prepare.py raised reaches the person who wrote it."""
    (tmp_path / "prepare.py").write_text("def prepare(out_dir):\n    raise OSError('no data set here')\n")
    with pytest.raises(FlipError) as failed:
        prepare(tmp_path, tmp_path / "data")
    assert "no data set here" in failed.value.what


def story(status: ModelStatus, rounds: list[StoryRound], plotted: Sequence[str] = ()) -> Story:
    """A story of two sites and three rounds; the slots ``plotted`` have a loss of 0.5 in the first."""
    points = [Point(x=1, y=0.5, round=1)]
    series = [Series(slot=slot, name=slot, points=points) for slot in plotted]
    return Story(
        generated_at=NOW,
        model=StoryModel(id="m", name="m"),
        status=status,
        total_rounds=3,
        sites=[StorySite(slot=slot, trust=slot) for slot in ("Trust_1", "Trust_2")],
        rounds=rounds,
        plots=[Plot(label="loss", x_label=DEFAULT_X_LABEL, series=series)] if series else [],
    )


def round_of(number: int, returned: list[str], aggregated: bool = False, scored: Sequence[str] = ()) -> StoryRound:
    """A round with the slots that have returned, and those that have scored its new model."""
    cells = [Cell(slot=slot, state="returned") for slot in returned]
    return StoryRound(number=number, cells=cells, aggregated_at=NOW if aggregated else None, scored=list(scored))


def test_news_names_who_is_awaited() -> None:
    """While a round trains, the person sees k of m and the slots that are still out."""
    told = news(story(ModelStatus.RUNNING, [round_of(1, ["Trust_1"])]))
    assert (told.stage, told.round, told.total, told.returned, told.expected) == ("train", 1, 3, 1, 2)
    assert told.awaited == ("Trust_2",)


def test_news_tells_validation_from_training() -> None:
    """After aggregation the sites validate; when all have, the next round is on."""
    both = ["Trust_1", "Trust_2"]
    assert news(story(ModelStatus.RUNNING, [round_of(1, both, True, ["Trust_1"])])).stage == "validate"
    following = news(story(ModelStatus.RUNNING, [round_of(1, both, True, both)]))
    assert (following.stage, following.round) == ("train", 2)


def test_a_site_that_is_lost_after_the_last_round_is_not_waited_for() -> None:
    """A hospital whose process dies while the results are stored must not cost the run: all it had to do is done."""
    both = ["Trust_1", "Trust_2"]
    some, all_of_them = (story(ModelStatus.RUNNING, [round_of(1, both, True, slots)]) for slots in (["Trust_1"], both))
    assert waits_for_sites(all_of_them), "two more rounds are to come"
    last = {"total_rounds": 1}
    assert waits_for_sites(some.model_copy(update=last))
    assert not waits_for_sites(all_of_them.model_copy(update=last))


def test_the_last_rounds_aggregate_starts_the_comparison() -> None:
    """The models to compare with are trained once the engine has nothing left to train."""
    assert not trained(story(ModelStatus.RUNNING, [round_of(2, [], aggregated=True)]))
    assert trained(story(ModelStatus.RUNNING, [round_of(3, [], aggregated=True)]))


def test_the_same_news_is_told_once() -> None:
    """Polling does not repeat itself on the screen."""
    heard: list[Progress] = []
    tell = OnlyChanges(heard.append)
    for progress in (Progress("a"), Progress("a"), Progress("b"), Progress("a")):
        tell(progress)
    assert [each.stage for each in heard] == ["a", "b", "a"]


def test_a_score_that_cannot_be_compared_is_no_agreement() -> None:
    """The check of the stored model needs something to check: missing scores on either side are a problem."""
    told, names = story(ModelStatus.RESULTS_UPLOADED, [round_of(1, ["Trust_1"], aggregated=True)], ["Trust_1"]), LOSS
    assert difference(told, {"Trust_1": {"loss": 0.5}}, names) is None
    assert "scores loss 0.600000" in (difference(told, {"Trust_1": {"loss": 0.6}}, names) or "")
    assert "gives no loss at Trust_1" in (difference(told, {}, names) or "")
    nothing = story(ModelStatus.RESULTS_UPLOADED, [round_of(1, ["Trust_1"], aggregated=True)])
    assert "no validation score" in (difference(nothing, {"Trust_1": {"loss": 0.5}}, names) or "")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "the FL server's process was lost: it was killed by signal 9 (SIGKILL)"),
        (247, "the FL server's process was lost: it was killed by signal 9 (SIGKILL)"),
        (245, "the FL server's process was lost: it was killed by signal 11 (SIGSEGV)"),
        (-64, "the FL server's process was lost: it was killed by signal 64 (SIGRTMAX)"),
        (3, "the engine ended (exit code 3) without a final status"),
        (255, "the engine ended (exit code 255) without a final status"),
        (None, "the engine still runs"),
    ],
)
def test_how_an_engine_ended_is_said_as_it_was(code: int | None, words: str) -> None:
    """A killed server is no clean end; NVFLARE's simulator passes its child's signal on as 256 less the number."""
    assert engine_ending(code) == words


def test_what_an_app_logs_by_itself_is_no_score_of_the_stored_model() -> None:
    """A run whose app logged a number in training was a failure: nothing that validates gives that number again."""
    told = story(ModelStatus.RESULTS_UPLOADED, [round_of(1, ["Trust_1"], aggregated=True)], ["Trust_1"])
    points = [Point(x=1, y=y, round=1) for y in (0.1, 0.2)]
    logged = Plot(label="seen", x_label=DEFAULT_X_LABEL, series=[Series(slot="Trust_1", name="Trust_1", points=points)])
    told = told.model_copy(update={"plots": [*told.plots, logged]})
    assert difference(told, {"Trust_1": {"loss": 0.5}}, LOSS) is None
    assert "gives no seen" in (difference(told, {"Trust_1": {"loss": 0.5}}, {"Trust_1": {"loss", "seen"}}) or "")


def test_an_imaging_app_with_a_table_is_told_before_anything_starts(tmp_path: Path) -> None:
    """The commonest first mistake, a cohort without accession_id, is named with both ways out of it."""
    app = write_app(tmp_path / "app", IMAGING=True)
    (tmp_path / "cohort.csv").write_text("patient,age\n1,40\n2,50\n")
    with claim(tmp_path / "run", app) as folder, pytest.raises(FlipError) as refused:
        split(Data(tmp_path / "cohort.csv", None), ["Trust_1"], load_config(app), folder)
    assert "it has no column accession_id (it has patient, age)" in refused.value.what
    assert '"IMAGING": false' in refused.value.fix
