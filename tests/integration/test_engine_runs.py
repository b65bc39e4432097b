"""Whole runs on each engine: what the hub, the bundle and the logs hold afterwards. One set of assertions for both."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from flip_fl.dashboard.story import Plot, Story
from flip_fl.hub import admin
from flip_fl.hub.model_service import update_model_status
from flip_fl.simulate.model import ENGINES, Progress, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from tests.support.bundles import bundle_of, weights_of
from tests.support.flower_plain import until
from tests.support.runs import processes_in, processes_of, site_processes
from tests.support.small_apps import CANARY, write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

# The check before a run imports the app where it lies; the sites import the copy that the run's folder holds.
AT_SITE_ONLY = "if '/run/' in __file__: raise RuntimeError('no such backend')"

IMAGE_DATA = """
def _data(site):
    cohort = site.cohort()
    studies = site.images(cohort)
    labels = dict(zip(cohort["accession_id"], cohort["label"]))
    sizes = {name: sum(f.stat().st_size for path in paths.values() for f in path.iterdir())
             for name, paths in studies.items()}
    x = torch.tensor([[size / 100, 1.0, 0.0] for size in sizes.values()], dtype=torch.float32)
    y = torch.tensor([labels[name] for name in sizes], dtype=torch.float32)
    return x, y
"""


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn: a scenario is written once."""
    return str(request.param)


def launch(engine: str, tmp_path: Path, sites: int = 2, **app: object) -> RunOutcome:
    """Run a small app that differs from a working one by ``app``."""
    folder = write_app(tmp_path / "app", canary=CANARY, **app)  # type: ignore[arg-type]
    return run(RunOptions(app=folder, engine=engine, sites=sites, out=tmp_path / "run"), lambda _: None)


def plot(story: Story, label: str, x_label: str = DEFAULT_X_LABEL) -> Plot:
    """The one plot of a label on an axis."""
    (found,) = [each for each in story.plots if (each.label, each.x_label) == (label, x_label)]
    return found


def statuses(story: Story) -> list[str]:
    """The applied statuses, in order."""
    return [each.status.value for each in story.history if each.applied]


@pytest.fixture
def ordinary(ordinary_runs: dict[str, RunOutcome], engine: str) -> RunOutcome:
    """The ordinary run on one engine."""
    return ordinary_runs[engine]


@pytest.mark.xdist_group("ordinary")
class TestOrdinaryRun:
    def test_the_hub_holds_every_status_in_order(self, ordinary: RunOutcome) -> None:
        """A finished run's history is INITIATED, PREPARED, RUNNING, RESULTS_UPLOADED and nothing else."""
        assert ordinary.exit_code == 0
        assert statuses(ordinary.story) == ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]

    def test_every_round_is_told_with_two_results_and_k_of_m(self, ordinary: RunOutcome) -> None:
        """Rounds count from 1, each site's result is there once with its size, and 2 of 2 were aggregated."""
        rounds = ordinary.story.rounds
        assert [each.number for each in rounds] == [1, 2, 3]
        for each in rounds:
            assert [(cell.slot, cell.state) for cell in each.cells] == [
                ("Trust_1", "returned"),
                ("Trust_2", "returned"),
            ]
            assert all(cell.size_bytes == 16 for cell in each.cells)
            assert (each.returned, each.expected) == (2, 2)

    def test_every_round_tells_how_far_the_sites_are_apart(self, ordinary: RunOutcome) -> None:
        """Norm, angle to the mean and examples of each site's update, as the FL server told the hub of them."""
        for each in ordinary.story.rounds:
            assert [(one.slot, one.examples) for one in each.updates] == [("Trust_1", 120), ("Trust_2", 120)]
            assert each.mean == "weighted"
            assert all(one.norm is not None and one.norm > 0 for one in each.updates)
            assert all(one.cosine is not None and 0 < one.cosine <= 1 for one in each.updates)

    def test_every_site_says_how_it_worked(self, ordinary: RunOutcome) -> None:
        """Of the time from question to answer the site's own part, and its labels, of which a small one is withheld
        with the next; clocks of one machine are right."""
        for each in ordinary.story.rounds:
            for cell in each.cells:
                assert cell.worked is not None
                assert cell.computed is not None
                assert 0 < cell.computed <= cell.worked <= (cell.seconds or 0) + 0.1
            assert [one.labels for one in each.updates] == [{"yes": 64, "no": "withheld", "unknown": "withheld"}] * 2
        assert ordinary.story.skews == []

    def test_metrics_carry_the_slot_and_the_round_they_were_measured_in(self, ordinary: RunOutcome) -> None:
        """Returned metrics arrive once per site and round, as train_<name> and <name>."""
        for label in ("train_loss", "loss"):
            series = plot(ordinary.story, label).series
            assert [each.slot for each in series] == ["Trust_1", "Trust_2"]
            assert all([point.x for point in each.points] == [1, 2, 3] for each in series)
            assert all(point.round == point.x for each in series for point in each.points)

    def test_logged_metrics_arrive_once_although_they_travel_twice(self, ordinary: RunOutcome) -> None:
        """Live batches and the copy in the task's reply are one point each: 2 steps x 3 rounds a site."""
        series = plot(ordinary.story, "step_loss", "Step").series
        assert [[point.round for point in each.points] for each in series] == [[1, 2, 3] * 2] * 2 or [
            sorted(point.round for point in each.points) for each in series
        ] == [[1, 1, 2, 2, 3, 3]] * 2

    def test_what_the_app_reports_by_itself_is_in_the_story_as_the_sites_own(self, ordinary: RunOutcome) -> None:
        """FLIP() in a simulated site is in development: its calls are kept and told, under the site's own slot."""
        series = plot(ordinary.story, "direct").series
        assert [each.slot for each in series] == ["Trust_1", "Trust_2"]
        assert [[point.round for point in each.points] for each in series] == [[1, 2, 3], [1, 2, 3]]

    def test_the_uploaded_model_loads_and_gives_the_reported_scores(self, ordinary: RunOutcome) -> None:
        """The bundle fetched back from the store scores on each site's rows what the hub was told."""
        from flip_fl.results.verify import reproduce

        (bundle,) = (ordinary.folder / "results").glob("*.zip")
        cohorts = {slot: ordinary.folder / "state" / "sites" / slot / "cohort.csv" for slot in ("Trust_1", "Trust_2")}
        scores = reproduce(bundle, cohorts)
        for series in plot(ordinary.story, "loss").series:
            assert scores[series.slot]["loss"] == pytest.approx(series.points[-1].y, rel=1e-5)

    def test_the_global_model_learns(self, ordinary: RunOutcome) -> None:
        """Three rounds of federated averaging lower the validation loss at both sites."""
        for series in plot(ordinary.story, "loss").series:
            assert series.points[-1].y < series.points[0].y  # type: ignore[operator]

    def test_no_patient_value_and_no_key_leaves_the_site(self, ordinary: RunOutcome) -> None:
        """Identifiers, accession numbers, notes of the cohort, keys and token are in no log, hub row or bundle."""
        key = _setting(ordinary.folder / "state" / "settings" / "server.env", "INTERNAL_SERVICE_KEY")
        secret = _setting(ordinary.folder / "state" / "settings" / "server.env", "AWS_SECRET_ACCESS_KEY")
        token = _setting(ordinary.folder / "state" / "settings" / "server.env", "FLIP_HUB_TOKEN")
        assert_absent(ordinary.folder, [CANARY, key, secret, token])

    def test_nothing_is_left_running(self, ordinary: RunOutcome) -> None:
        """Hub, object store, engine and its workers are gone when the run is over."""
        assert processes_of(ordinary.folder) == []


@pytest.mark.xdist_group("ordinary")
class TestParity:
    """The same folder on both engines: compared file by file."""

    def test_the_global_models_are_equal(self, ordinary_runs: dict[str, RunOutcome]) -> None:
        """Same seed, same data: the weights of every round's end agree to 1e-6, names, shapes and dtypes exactly."""
        one, other = (weights_of(bundle_of(outcome)) for outcome in ordinary_runs.values())
        assert list(one) == list(other)
        for name, tensor in one.items():
            assert tensor.dtype == other[name].dtype
            assert tensor.shape == other[name].shape
            assert float((tensor - other[name]).abs().max()) <= 1e-6

    def test_the_bundles_hold_the_same_files(self, ordinary_runs: dict[str, RunOutcome]) -> None:
        """Code and config are the same bytes, measurements the same numbers, nothing is only in one of them."""
        one, other = (zipfile.ZipFile(bundle_of(outcome)) for outcome in ordinary_runs.values())
        with one, other:
            assert one.namelist() == other.namelist()
            for name in one.namelist():
                if name.endswith(".py"):
                    assert one.read(name) == other.read(name), name
                elif name.endswith(".json") and name != "manifest.json":
                    assert_close(json.loads(one.read(name)), json.loads(other.read(name)), name)
            manifests = [json.loads(bundle.read("manifest.json")) for bundle in (one, other)]
        for manifest in manifests:
            del manifest["model_id"]
            for name in ("FL_global_model.pt", "metrics.json", "cross_site_val/cross_val_results.json"):
                assert manifest["files"].pop(name)["size_bytes"] > 0  # their digests hang on the last bits
        assert manifests[0] == manifests[1]

    def test_the_hub_tells_the_same_story(self, ordinary_runs: dict[str, RunOutcome]) -> None:
        """Statuses, rounds, cells, plots and the feed's words are the same but for times and the run's own names."""
        one, other = (outcome.story for outcome in ordinary_runs.values())
        assert statuses(one) == statuses(other)
        assert [rounds_of(each) for each in (one, other)] == [rounds_of(one)] * 2
        assert [(each.label, each.x_label) for each in one.plots] == [
            (each.label, each.x_label) for each in other.plots
        ]
        for left, right in zip(one.plots, other.plots, strict=True):
            for mine, theirs in zip(left.series, right.series, strict=True):
                assert mine.slot == theirs.slot
                points = [
                    [(p.round, p.x) for p in sorted(s.points, key=lambda p: (p.round, p.x))] for s in (mine, theirs)
                ]
                assert points[0] == points[1]
                values = [[p.y for p in sorted(s.points, key=lambda p: (p.round, p.x))] for s in (mine, theirs)]
                assert values[0] == pytest.approx(values[1], abs=1e-6)
        assert words_of(one) == words_of(other)
        assert [failure.headline for failure in one.failures] == [failure.headline for failure in other.failures] == []


def assert_close(one: Any, other: Any, where: str) -> None:
    """Equal structures, equal texts, numbers equal to 1e-6."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_close(value, other[key], f"{where}/{key}")
    elif isinstance(one, float):
        assert one == pytest.approx(other, abs=1e-6), where
    else:
        assert one == other, where


def rounds_of(story: Story) -> list[Any]:
    """Every round's figures and cells, without times."""
    return [
        (
            (each.number, each.returned, each.expected, each.mean),
            [(cell.slot, cell.state, cell.size_bytes) for cell in each.cells],
            [(one.slot, one.examples, one.labels, pytest.approx(one.norm, abs=1e-3)) for one in each.updates],
        )
        for each in story.rounds
    ]


# A machine that is busy is slow to start its sites.
_AWAITS = "waits for its sites"


def words_of(story: Story) -> list[str]:
    """The feed's sentences, sorted, without seconds and without what names the run itself."""
    texts = (
        re.sub(r" in [\d.]+ s\b|^\d+(?= lines that the app printed)", "", row.text)
        for row in story.feed
        if _AWAITS not in row.text
    )
    return sorted(re.sub(r"s3://\S+|[0-9a-f]{64}|[\d.]+ [kM]?B", "…", text) for text in texts)


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_an_exception_in_one_sites_training_ends_the_run_with_its_name_and_reason(engine: str, tmp_path: Path) -> None:
    """By default one site's failure is the run's failure: ERROR, the reason names that site and no other, and the hub
    has the exception's type and place without the value."""
    note = "if site.name == 'Trust_2': cohort = site.cohort(); float(cohort['note'].iloc[0])"
    outcome = launch(engine, tmp_path, in_train=note)
    assert outcome.status is ModelStatus.ERROR
    assert outcome.exit_code == 1
    assert outcome.story.reason is not None
    assert "Trust_2 in train, round 1" in outcome.story.reason
    assert "Trust_1 in" not in outcome.story.reason
    assert "ValueError" in outcome.story.reason
    (failure,) = [each for each in outcome.story.failures if "ValueError" in each.headline]
    assert failure.slots == ["Trust_2"]
    assert "trainer.py" in failure.detail
    assert "could not convert string to float" in failure.detail
    assert_absent(outcome.folder, [CANARY])
    assert outcome.results is None


# What an exception in training shows on both engines: each of the two other places is looked at on one every day.
@pytest.mark.soak
def test_an_exception_in_validation_is_not_a_success(engine: str, tmp_path: Path) -> None:
    """A trainer that raises in validate: ERROR with the phase in the reason, although training succeeded."""
    outcome = launch(engine, tmp_path, in_validate="raise KeyError('threshold')")
    assert outcome.status is ModelStatus.ERROR
    assert "validate, round 1" in (outcome.story.reason or "")
    assert any("KeyError" in failure.headline for failure in outcome.story.failures)
    assert statuses(outcome.story)[-1] == "ERROR"


@pytest.mark.soak
def test_an_exception_at_import_is_reported_and_does_not_hang(engine: str, tmp_path: Path) -> None:
    """A trainer that raises when a site imports it: ERROR with the traceback, no wait for a time-out."""
    outcome = launch(engine, tmp_path, at_import=AT_SITE_ONLY)
    assert outcome.status is ModelStatus.ERROR
    assert any("RuntimeError" in failure.headline for failure in outcome.story.failures)
    assert "RuntimeError" in (outcome.story.reason or "")


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_a_site_that_fails_or_sends_no_numbers_is_left_out_when_the_job_says_so(engine: str, tmp_path: Path) -> None:
    """IGNORE_RESULT_ERROR with a quorum of one: a site that raises, and one whose weights are NaN, do not enter the
    model; the run goes on with the other, says 1 of 2 and why, and counts the site again when it is sound."""
    poison = "torch.nn.init.constant_(model.bias, float('nan'))"
    outcome = launch(
        engine,
        tmp_path,
        in_train="if site.name == 'Trust_2' and site.round == 1: raise OSError('disk')",
        before_return=f"if site.name == 'Trust_2' and site.round == 2: {poison}",
        GLOBAL_ROUNDS=3,
        IGNORE_RESULT_ERROR=True,
        MIN_CLIENTS=1,
    )
    assert outcome.status is ModelStatus.RESULTS_UPLOADED
    assert [(each.returned, each.expected) for each in outcome.story.rounds] == [(1, 2), (1, 2), (2, 2)]
    assert [cell.state for cell in outcome.story.rounds[0].cells] == ["returned", "failed"]
    assert any(failure.slots == ["Trust_2"] and "OSError" in failure.headline for failure in outcome.story.failures)
    assert any("rejected: 'bias' holds NaN" in failure.detail for failure in outcome.story.failures)
    assert all(math.isfinite(point.y or 0) for each in plot(outcome.story, "loss").series for point in each.points)


# On Flower tests/integration/test_cli_run.py does it by the installed command, every day.
@pytest.mark.parametrize("engine", ["nvflare", pytest.param("flower", marks=pytest.mark.soak)])
def test_ctrl_c_in_the_middle_stops_the_run_once_and_leaves_nothing(engine: str, tmp_path: Path) -> None:
    """SIGINT during training: STOPPED at the hub with the reason, exit code 130, report written, no process left."""
    app = write_app(tmp_path / "app", in_train="import time; time.sleep(2)", GLOBAL_ROUNDS=50)
    out = tmp_path / "run"
    command = [sys.executable, "-m", "flip_fl.cli", "run", str(app), "--engine", engine, "--sites", "2"]
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait_for_status(out / "hub.sqlite", "RUNNING")
        assert_no_key_in_any_environment(out)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 130, output.decode()
    story = Story.model_validate_json((out / "story.json").read_text())
    assert story.status is ModelStatus.STOPPED
    assert statuses(story).count("STOPPED") == 1
    assert "Ctrl-C" in (story.reason or "")
    assert (out / "report.html").is_file()
    assert processes_of(out) == []


def test_a_logged_metric_is_at_the_hub_while_its_round_still_trains(tmp_path: Path) -> None:
    """The live channel works: a value logged at the start of a long task does not wait for the task's reply.

    NVFLARE alone: a ClientApp of Flower's has no word to say before its reply.
    """
    seen = tmp_path / "seen"
    in_train = f"""site.log('early', 1.0)
    import os, time
    until = time.monotonic() + 60
    while not os.path.exists({str(seen)!r}) and time.monotonic() < until: time.sleep(0.1)
"""
    app = write_app(tmp_path / "app", in_train=in_train, GLOBAL_ROUNDS=1)
    out = tmp_path / "run"
    seen_while_training: list[int] = []

    def look(_: Progress) -> None:
        if not watchers:
            watchers.append(threading.Thread(target=watch, daemon=True))
            watchers[0].start()

    def watch() -> None:
        query = "select (select count(*) from fl_metrics where label = 'early'), (select count(*) from fl_logs where "
        query += "event_type = 'CLIENT_RESULT_RECEIVED')"
        for _ in range(1200):
            with contextlib.suppress(sqlite3.OperationalError), _read(out / "hub.sqlite") as connection:
                metrics, results = connection.execute(query).fetchone()
                if metrics and not results:
                    seen_while_training.append(metrics)
                if metrics == 2:
                    break
            time.sleep(0.1)
        seen.touch()

    watchers: list[threading.Thread] = []
    outcome = run(RunOptions(app=app, engine="nvflare", sites=2, out=out), look)
    assert outcome.status is ModelStatus.RESULTS_UPLOADED
    assert max(seen_while_training, default=0) == 2
    assert [len(series.points) for series in plot(outcome.story, "early").series] == [1, 1]


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_a_stop_at_the_hub_ends_the_run_as_stopped(engine: str, tmp_path: Path) -> None:
    """Somebody sets the model to STOPPED at the hub: the engine is told, the run ends, and STOPPED is what stays. No
    process of a run, however many there are by then, holds a key in its environment."""
    app = write_app(tmp_path / "app", in_train="import time; time.sleep(1)", GLOBAL_ROUNDS=50)
    out = tmp_path / "run"
    stopped: list[UUID] = []

    def stop_at_hub(progress: Progress) -> None:
        if progress.round == 2 and not stopped:
            assert_no_key_in_any_environment(out)
            with admin.open_session(f"sqlite:///{out / 'hub.sqlite'}") as session:
                (model,) = admin.list_models(session)
                update_model_status(model.id, ModelStatus.STOPPED, session, user_id="ada")
                session.commit()
            stopped.append(model.id)

    outcome = run(RunOptions(app=app, engine=engine, sites=2, out=out), stop_at_hub)
    assert stopped
    assert (outcome.status, outcome.exit_code) == (ModelStatus.STOPPED, 6)
    assert statuses(outcome.story)[-1] == "STOPPED"
    assert statuses(outcome.story).count("STOPPED") == 1
    assert outcome.story.reason == "stopped at the hub"
    assert len(outcome.story.rounds) < 10
    assert processes_of(out) == []


@pytest.mark.parametrize("engine", ["nvflare", pytest.param("flower", marks=pytest.mark.soak)])
def test_an_imaging_app_reads_its_studies_and_a_nan_metric_ends_nothing(engine: str, tmp_path: Path) -> None:
    """--data and --images: each site fetches its own studies by accession number; a missing one is skipped, counted.
    A metric that is not a number becomes a row that names it; the run succeeds and its other metrics are stored."""
    cohort, images = tmp_path / "cohort.csv", tmp_path / "images"
    rows = [f"P{number},00{number},{number % 2}" for number in range(40)]
    cohort.write_text("\n".join(["person_id,accession_id,label", *rows]))
    for number in range(39):
        (images / f"00{number}").mkdir(parents=True)
        (images / f"00{number}" / "input_scan.nii.gz").write_bytes(bytes(100 + number))
    app = write_app(tmp_path / "app", data=IMAGE_DATA, wrong="float('nan')", IMAGING=True, MAX_SKIPPED=0.1)
    options = RunOptions(app=app, engine=engine, sites=2, data=cohort, images=images, out=tmp_path / "run")
    outcome = run(options, lambda _: None)
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    skipped = [row.text for row in outcome.story.feed if "skipped" in row.text]
    assert skipped
    assert all("0039" not in text for text in skipped)
    rows = [row.text for row in outcome.story.feed if "wrong" in row.text]
    assert len(rows) == 4, "one row a site and round"
    assert all("nan" in text for text in rows)
    assert {each.label for each in outcome.story.plots} >= {"loss", "train_loss"}


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_a_killed_site_process_ends_the_run_with_its_name(engine: str, tmp_path: Path) -> None:
    """kill -9 of one site's process in the middle of training: ERROR naming the slot, instead of waiting for ever."""
    app = write_app(tmp_path / "app", in_train="import time; time.sleep(3)", GLOBAL_ROUNDS=50)
    out = tmp_path / "run"
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.round == 1 and not killed:
            # A round is told when the sites are asked: their processes may only be starting.
            until(lambda: site_processes(out, "Trust_2") != set())
            killed.extend(site_processes(out, "Trust_2"))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    outcome = run(RunOptions(app=app, engine=engine, sites=2, out=out), kill_one)
    assert len(killed) == 1
    assert outcome.status is ModelStatus.ERROR
    assert "Trust_2" in (outcome.story.reason or "")
    assert re.search("was lost|was killed by signal 9", outcome.story.reason or "")
    assert "Trust_1" not in (outcome.story.reason or "")
    assert processes_of(out) == []


def assert_no_key_in_any_environment(folder: Path) -> None:
    """No process of the run, engine and sites included, has the hub's or the store's key in its environment."""
    server = folder / "state" / "settings" / "server.env"
    keys = [_setting(server, name) for name in ("INTERNAL_SERVICE_KEY", "FLIP_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY")]
    seen = 0
    for process in processes_in(folder):
        seen += 1
        for value in process.environ().values():
            assert not any(key in value for key in keys)
    assert seen >= 4


def assert_absent(folder: Path, canaries: list[str]) -> None:
    """None of ``canaries`` is in a log, the hub's database, the outbox, the report or an entry of the bundle."""
    places: dict[str, bytes] = {}
    for path in folder.rglob("*"):
        inside = path.relative_to(folder)
        if not path.is_file() or inside.parts[:2] in {("state", "sites"), ("state", "data"), ("state", "settings")}:
            continue
        if inside.parts[:2] == ("state", "s3"):
            continue  # holds the store's own credentials and the bundle that is looked at below
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as bundle:
                places |= {f"{inside}!{name}": bundle.read(name) for name in bundle.namelist()}
        elif inside.parts[:2] != ("state", "job") and "custom" not in inside.parts:
            places[str(inside)] = path.read_bytes()
    assert any(name.startswith("logs/") for name in places)
    found = [name for name, content in places.items() for canary in canaries if canary.encode() in content]
    # prepare.py is the researcher's own code: it writes the canaries and is no patient's data.
    assert [name for name in found if not name.endswith("prepare.py")] == []


def _read(database: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True))


def _wait_for_status(database: Path, status: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        with contextlib.suppress(sqlite3.OperationalError), _read(database) as connection:
            if connection.execute("select 1 from model where status = ?", (status,)).fetchone():
                return
        time.sleep(0.2)
    raise AssertionError(f"the run did not become {status}")


def _setting(path: Path, name: str) -> str:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}="):
            return line.partition("=")[2].strip("'")
    raise AssertionError(f"{path} has no {name}")
