"""Whole runs whose hub, server or disk is in trouble: what the hub holds when the trouble is over."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from flip_fl.environment import scrubbed
from flip_fl.flower.job import write_job
from flip_fl.hub import admin
from flip_fl.jobs.templates import JobValues
from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.simulate.faults import AWAY, HUNG, OK, FaultyHub, HubFault, faulty_hub, slow
from flip_fl.simulate.model import ENGINES, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import DEFAULT_X_LABEL, EventType, ModelStatus
from tests.conftest import leave_out
from tests.support.cli import flip_fl
from tests.support.federation import SLOTS, Federation, federation
from tests.support.runs import SERVER, HubKills, ServerKill, Told, Trouble, processes_of, stored_ids, told, wait_for
from tests.support.small_apps import CANARY, ORDINARY, write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

BURST = 1_000


def database(folder: Path) -> Path:
    return folder / "hub.sqlite"


def run_id(outcome: RunOutcome) -> UUID:
    return UUID(outcome.story.model.id)


def left_behind(out: Path) -> list[Path]:
    return find_outboxes([out / "state" / "outbox"])


# -- a hub that is not well while the engine runs -----------------------------------------------------------------

TROUBLES = [
    pytest.param("nvflare", AWAY, id="nvflare-away", marks=pytest.mark.soak),
    pytest.param("nvflare", slow(3.0), id="nvflare-slow", marks=pytest.mark.soak),
    pytest.param("nvflare", HUNG, id="nvflare-hung", marks=pytest.mark.soak),
    pytest.param("flower", AWAY, id="flower-away"),
    pytest.param("flower", slow(3.0), id="flower-slow", marks=pytest.mark.soak),
]


@pytest.mark.xdist_group("ordinary")
@pytest.mark.parametrize(("engine", "fault"), TROUBLES)
def test_the_story_is_that_of_a_healthy_run_whatever_the_hub_did_meanwhile(
    engine: str, fault: HubFault, ordinary_runs: dict[str, RunOutcome], tmp_path: Path
) -> None:
    """Away from before the start until after the end, or 3 s slow: afterwards the hub holds what it holds of a healthy
    run of the same seed, each once, in order, and each metric under the round that it was measured in."""
    app = write_app(tmp_path / "app", canary=CANARY, **ORDINARY)
    options = RunOptions(app=app, engine=engine, sites=2, out=tmp_path / "run", hub_fault=fault)
    outcome = run(options, lambda _: None)
    assert (outcome.exit_code, outcome.reason) == (0, None)
    healthy = ordinary_runs[engine]
    expected = told(database(healthy.folder), run_id(healthy))
    assert told(database(outcome.folder), run_id(outcome)) == expected
    assert expected.not_applied == 0
    assert [row[0] for rows in expected.rows.values() for row in rows if not row[0]] == []
    for points in expected.metrics.values():
        rounds = [(number, x) for number, _, _, _, axis, x, _ in points if axis == DEFAULT_X_LABEL]
        assert {number for number, _ in rounds} == {1, 2, 3}
        assert all(number == x for number, x in rounds), "measured in one round, stored as another's"
    assert left_behind(outcome.folder) == []


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_a_success_that_overtakes_its_reports_is_checked_against_all_of_them(engine: str, tmp_path: Path) -> None:
    """10,000 metrics to a slow hub: the end of the run does not wait for them, its success is told first, and the rest
    is delivered before the model is compared with it. Such a run was a failure, and so was one that logs in training.
    """
    many = "for number in range(5_000): site.log('many', float(number), number, 'Step')"
    app = write_app(tmp_path / "app", in_train=many, GLOBAL_ROUNDS=1)
    options = RunOptions(app=app, engine=engine, sites=2, out=tmp_path / "run", hub_fault=slow(0.7))
    outcome = run(options, lambda _: None)
    logs = "".join(path.read_text() for path in (tmp_path / "run" / "logs").glob("*.log"))
    assert "some reports are not at the hub yet" in logs, "the hub was too quick for this test"
    assert (outcome.status, outcome.exit_code, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    (many_plot,) = [plot for plot in outcome.story.plots if plot.label == "many"]
    expected = [float(number) for number in range(5_000)]
    assert [[point.y for point in series.points] for series in many_plot.series] == [expected, expected]


# -- a server process that is killed ------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_what_a_killed_server_had_acknowledged_arrives_and_the_run_ends_with_a_reason(
    engine: str, tmp_path: Path
) -> None:
    """kill -9 of the FL server's process in round 2 of 50, the hub away: every report that was on its disk is stored,
    once and in order, the run is ERROR with a reason that says what was lost, and no process stays."""
    app = write_app(tmp_path / "app", in_train="import time; time.sleep(0.3)", GLOBAL_ROUNDS=50)
    out = tmp_path / "run"
    kill = ServerKill(out, number=2)
    trouble = Trouble(kill)
    outcome = run(RunOptions(app=app, engine=engine, sites=2, out=out, hub_fault=AWAY), trouble)
    trouble.end()
    acknowledged = [row_id for row_id, _ in kill.acknowledged]
    assert len(acknowledged) > 10
    assert set(acknowledged) <= stored_ids(database(out), run_id(outcome))
    assert (outcome.status, outcome.exit_code) == (ModelStatus.ERROR, 1)
    assert "the FL server's process was lost" in (outcome.reason or "")
    assert "killed by signal 9" in (outcome.reason or "")
    known = told(database(out), run_id(outcome))
    assert [status for _, status, _, _ in known.statuses] == [
        ModelStatus.PENDING,
        ModelStatus.INITIATED,
        ModelStatus.PREPARED,
        ModelStatus.RUNNING,
        ModelStatus.ERROR,
    ]
    kept = [item for _, item in kill.acknowledged if item["kind"] == "metric"]
    for slot in SLOTS:
        mine = [(item["label"], item["global_round"], item["result"]) for item in kept if item["client"] == slot]
        assert [(label, number, value) for number, _, _, label, _, _, value in known.metrics[slot]] == mine
    assert processes_of(out) == []


# -- a hub that is killed -----------------------------------------------------------------------------------------


def burst(begun: Path, done: Path) -> str:
    """Statements of a training that makes the file ``begun``, logs 1,000 values without a pause, and goes on, slowly,
    until ``done`` is there. All have one x: only the order in which they were logged tells them apart.
    """
    return f"""
    import os, time
    open({str(begun)!r}, "w").close()
    for number in range({BURST}):
        site.log("burst", float(number))
    number = 0
    while not os.path.exists({str(done)!r}):
        site.log("after", float(number))
        number += 1
        time.sleep(0.05)
    site.log("after_count", float(number))
"""


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("engine", "sites", "kills"),
    [
        pytest.param("nvflare", 2, 4, id="nvflare-2-4"),
        pytest.param("nvflare", 5, 20, id="nvflare-5-20", marks=pytest.mark.soak),
        pytest.param("flower", 5, 20, id="flower-5-20", marks=pytest.mark.soak),
    ],
)
def test_a_burst_of_all_sites_is_stored_as_logged_although_the_hub_is_killed_again_and_again(
    engine: str, sites: int, kills: int, tmp_path: Path
) -> None:
    """All sites log 1,000 metrics each without a pause while the hub is killed and started anew: stored = logged, each
    once, in order for each site, in the round of the measurement, and the run ends as if nothing had been."""
    begun, done, out = tmp_path / "begun", tmp_path / "done", tmp_path / "run"
    app = write_app(tmp_path / "app", in_train=burst(begun, done), GLOBAL_ROUNDS=1)
    hub = HubKills(out, kills, begun, done)
    trouble = Trouble(hub)
    try:
        outcome = run(RunOptions(app=app, engine=engine, sites=sites, out=out), trouble)
        trouble.end()
    finally:
        done.touch()
        hub.close()
    assert hub.killed == kills
    assert (outcome.status, outcome.exit_code, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    series = {plot.label: {each.slot: each.points for each in plot.series} for plot in outcome.story.plots}
    slots = [f"Trust_{number}" for number in range(1, sites + 1)]
    assert list(series["burst"]) == slots
    for slot in slots:
        assert [point.y for point in series["burst"][slot]] == [float(number) for number in range(BURST)]
        (count,) = series["after_count"][slot]
        assert [point.y for point in series["after"][slot]] == [float(number) for number in range(int(count.y or 0))]
        assert {point.round for label in series for point in series[label][slot]} == {1}
    known = told(database(out), run_id(outcome))
    assert [status for _, status, _, _ in known.statuses if status.is_terminal] == [ModelStatus.RESULTS_UPLOADED]
    assert [row[2] for row in known.rows[SERVER] if row[2]] == [
        EventType.RUN_CONFIGURED,
        EventType.ROUND_STARTED,
        EventType.UPDATES_COMPARED,
        EventType.ROUND_AGGREGATED,
        EventType.RESULTS_STORED,
    ]
    assert left_behind(out) == []
    assert processes_of(out) == []


# -- a full disk --------------------------------------------------------------------------------------------------


class FullDisk:
    """A disk of its own for the outbox of the run in ``out``, full from the begin of its first round."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "state" / "outbox"
        self.full = False

    def __call__(self) -> None:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(self.folder)], check=True)
        wait_for(lambda: bool(find_outboxes([self.folder])), "the outbox")
        (outbox,) = find_outboxes([self.folder])
        wait_for(lambda: bool(read_stats(outbox).last_ack), "the first report")
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        self.full = True

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=False, capture_output=True)


def can_mount(folder: Path) -> bool:
    """Whether this machine lets us make a small disk."""
    folder.mkdir()
    tried = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if tried.returncode == 0:
        subprocess.run(["umount", str(folder)], check=True)
    return tried.returncode == 0


@pytest.mark.soak
@pytest.mark.parametrize("engine", ENGINES)
def test_a_disk_that_is_full_costs_no_report_while_the_hub_is_there(engine: str, tmp_path: Path) -> None:
    """The outbox's disk is full from the first round on: everything is stored once all the same, the run succeeds, and
    one row says what was wrong."""
    if not can_mount(tmp_path / "disk"):
        leave_out("a full disk: mounting a small one needs root")
    flag = tmp_path / "full"
    wait = f"import os, time\n    while not os.path.exists({str(flag)!r}): time.sleep(0.05)"
    app = write_app(tmp_path / "app", in_train=wait, GLOBAL_ROUNDS=3, LOCAL_ROUNDS=200)
    out = tmp_path / "run"
    disk = FullDisk(out)

    def fill() -> None:
        try:
            disk()
        finally:
            flag.touch()

    trouble = Trouble(fill)
    try:
        outcome = run(RunOptions(app=app, engine=engine, sites=2, out=out), trouble)
        trouble.end()
    finally:
        flag.touch()
        disk.close()
    assert disk.full
    assert (outcome.status, outcome.exit_code) == (ModelStatus.RESULTS_UPLOADED, 0)
    (steps,) = [plot for plot in outcome.story.plots if plot.label == "step_loss"]
    assert [len(series.points) for series in steps.series] == [600, 600]
    said = [row.text for row in outcome.story.feed if row.text.startswith("reporting: ")]
    # Each time that it is full anew after something could be written again.
    assert list(dict.fromkeys(said)) == [
        "reporting: the outbox file cannot be written (disk_full); reports are kept in memory"
    ]


# -- several runs of one machine ----------------------------------------------------------------------------------


class Machine:
    """An FL server's machine: one state folder, one settings file, and runs on the in-process grid."""

    def __init__(self, there: Federation, app: Path, folder: Path) -> None:
        self._there = there
        self._app = app
        self._folder = folder

    def model(self, name: str) -> UUID:
        """One more model at the hub, of the same trusts."""
        with admin.open_session(f"sqlite:///{self.database}") as session:
            trusts = [trust.name for trust in admin.list_trusts(session)]
            return admin.create_model(session, "Simulated project", name, "a job", trusts=trusts).id

    @property
    def database(self) -> Path:
        return self._folder / "run" / "hub.sqlite"

    def outbox(self, model_id: UUID) -> Path:
        return self._there.state / "outbox" / f"{model_id}.sqlite"

    def start(self, model_id: UUID) -> subprocess.Popen[bytes]:
        values = JobValues(model_id=model_id, num_rounds=2, min_clients=2, slots=SLOTS)
        job = write_job(self._app, "standard", values, self._folder / f"job-{model_id}")
        logs = self._folder / f"logs-{model_id}"
        logs.mkdir()
        command = [sys.executable, "-m", "flip_fl.flower.local", str(job), "--slots", ",".join(SLOTS)]
        environment = scrubbed(FLIP_SETTINGS_DIR=str(self._there.settings), OMP_NUM_THREADS="1")
        with (logs / "server.log").open("ab") as out:
            return subprocess.Popen(
                [*command, "--log-dir", str(logs)], env=environment, stdout=out, stderr=subprocess.STDOUT
            )

    def told(self, model_id: UUID) -> Told:
        return told(self.database, model_id)


@contextlib.contextmanager
def machine(folder: Path, app: Path) -> Iterator[tuple[Machine, FaultyHub]]:
    """A machine whose hub stands behind a proxy, away at first."""
    with federation(folder, app) as there, faulty_hub(there.hub.url, AWAY) as proxy:
        file = there.settings / "server.env"
        text = file.read_text()
        assert there.hub.url in text
        file.write_text(text.replace(there.hub.url, proxy.url))
        yield Machine(there, app, folder), proxy


@pytest.mark.soak
def test_runs_of_one_machine_share_its_state_and_deliver_what_an_earlier_one_left(tmp_path: Path) -> None:
    """A run whose hub was away leaves its reports; `flip-fl sync` says so and keeps them; two later runs at once, in
    the same state folder, deliver them beside their own: three equal stories, each report once, no file left."""
    app = write_app(tmp_path / "app", in_train="import time; time.sleep(1)", LOCAL_ROUNDS=20)
    state = str(tmp_path / "run" / "state")
    keys = ("--settings", str(tmp_path / "run" / "state" / "settings" / "server.env"), "--json")
    with machine(tmp_path, app) as (here, proxy):
        first, second, third = (here.model(name) for name in ("first", "second", "third"))
        assert here.start(first).wait(120) == 0
        assert here.told(first).ids == 0
        waiting = read_stats(here.outbox(first)).pending
        assert waiting > 100
        away = flip_fl("sync", state, *keys, cwd=tmp_path)
        assert away.exit_code == 3
        assert f"{waiting} events kept in the outbox; nothing is lost" in away.stdout
        proxy.set(OK)
        runs = [here.start(second), here.start(third)]
        wait_for(lambda: all(read_stats(here.outbox(each)).sending for each in (second, third)), "both runs")
        live = flip_fl("sync", str(here.outbox(second)), str(here.outbox(third)), *keys, cwd=tmp_path)
        assert [process.wait(120) for process in runs] == [0, 0]
        assert live.exit_code == 0
        assert [each["state"] for each in live.document()["data"]["outboxes"]] == ["live", "live"]
        stories = [here.told(each) for each in (first, second, third)]
        assert left_behind(tmp_path / "run") == []
    assert stories[0] == stories[1] == stories[2]
    assert [status for _, status, _, _ in stories[0].statuses][-1] is ModelStatus.RESULTS_UPLOADED
    assert len(stories[0].metrics["Trust_1"]) == 2 * (20 + 3)
