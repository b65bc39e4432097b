"""A slow, a hung and an absent hub: real sockets between the real sender and the real hub."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import pytest
import requests

from flip_fl.http import HttpConnectionError
from flip_fl.hub import admin
from flip_fl.reporting import open_reporting
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.sender import Pace
from flip_fl.reporting.stats import read_stats
from flip_fl.settings import ServerSettings, load
from flip_fl.simulate.faults import AWAY, HUNG, OK, FaultyHub, HubFault, HubMode, faulty_hub, slow
from flip_fl.simulate.model import ENGINES, Progress, RunOptions
from flip_fl.simulate.run import run
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from tests.support.cli import flip_fl
from tests.support.hub import KEY_HEADER, RunningHub, running_hub, world
from tests.support.reporting import settings, wait_until
from tests.support.small_apps import write_app

PACE = Pace(flush_s=0.02, heartbeat_s=60.0, request_timeout_s=0.3, outage_patience_s=0.2)
METRICS = 30


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One hub on SQLite for all; each test makes a model of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('hub') / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as filled, running_hub(filled) as running:
        yield running


@pytest.fixture
def model_id(hub: RunningHub) -> UUID:
    filled = hub.world
    with admin.open_session(filled.url) as session:
        return admin.create_model(session, "Stroke", f"m {uuid4()}", "", trusts=[filled.guys, filled.kings]).id


@pytest.fixture
def proxy(hub: RunningHub) -> Iterator[FaultyHub]:
    with faulty_hub(hub.base) as between:
        yield between


def through(proxy: FaultyHub, hub: RunningHub) -> ServerSettings:
    return settings(proxy.url, hub.key)


def stored(hub: RunningHub, model_id: UUID) -> list[float]:
    """Every metric that the hub keeps of the model, asked of the hub itself."""
    plots = hub.call("GET", f"/model/{model_id}/metrics").json()
    return sorted(point["yValue"] for plot in plots for series in plot["metrics"] for point in series["data"])


def logs(hub: RunningHub, model_id: UUID) -> list[str]:
    return [row["log"] for row in hub.call("GET", f"/model/{model_id}/logs").json()]


@pytest.mark.parametrize("fault", [slow(0.1), HUNG, AWAY], ids=str)
def test_a_run_reports_through_an_outage_at_once_and_everything_arrives_once(
    fault: HubFault, hub: RunningHub, proxy: FaultyHub, model_id: UUID, tmp_path: Path
) -> None:
    """Training must not feel the hub, and what could not be sent arrives later, once: also what a hung hub had been
    asked already, and answers when nobody listens any more."""
    reporting = open_reporting(through(proxy, hub), model_id, tmp_path, pace=PACE)
    reporting.lifecycle.initiated()
    reporting.reporter.metric("Trust_1", "loss", 0.0, 1)
    wait_until(lambda: stored(hub, model_id) == [0.0], what="the healthy part")
    proxy.set(fault)
    slowest = 0.0
    for number in range(1, METRICS):
        begin = time.perf_counter()
        assert reporting.reporter.metric("Trust_1", "loss", float(number), 1, x_value=number)
        slowest = max(slowest, time.perf_counter() - begin)
        time.sleep(0.02)
    reporting.reporter.failure("Trust_2", "one bad study", 1)
    if fault is HUNG:
        # it costs a time-out a try and is asked again: several copies of one batch wait in the proxy then
        wait_until(lambda: proxy.connections >= 3, timeout_s=30, what="a second try")
    if fault in (HUNG, AWAY):
        assert stored(hub, model_id) == [0.0]
    assert slowest < 0.1
    proxy.set(OK)
    # the late copies may be there before the sender itself knows that the hub is back
    wait_until(lambda: read_stats(reporting.path).pending == 0, timeout_s=60, what="the rest")
    reporting.lifecycle.stop("stopped at the test")
    reporting.lifecycle.finish()
    assert reporting.close(10.0)
    assert stored(hub, model_id) == [float(number) for number in range(METRICS)]
    assert logs(hub, model_id).count("one bad study") == 1
    assert hub.call("GET", f"/model/{model_id}/status").json()["status"] == "STOPPED"


def test_a_slow_hub_answers_each_question_that_much_later(hub: RunningHub, proxy: FaultyHub, model_id: UUID) -> None:
    """The delay must be on every answer of a kept-alive connection, or a slow hub would be slow once."""
    with closing(HubClient(through(proxy, hub))) as client:
        client.put_status(model_id, ModelStatus.INITIATED)
        proxy.set(slow(0.25))
        for status in (ModelStatus.PREPARED, ModelStatus.RUNNING):
            begin = time.monotonic()
            client.put_status(model_id, status)
            assert 0.25 <= time.monotonic() - begin < 1.5
    assert proxy.connections == 1
    assert proxy.fault == HubFault(HubMode.SLOW, 0.25)


def test_a_hung_hub_takes_the_question_and_answers_nobody_then_does_what_it_was_asked(
    hub: RunningHub, proxy: FaultyHub, model_id: UUID
) -> None:
    """As a process that was stopped and goes on: what was sent to it is done, after its caller has given up."""
    proxy.set(HUNG)
    with closing(HubClient(through(proxy, hub))) as client:
        with pytest.raises(HttpConnectionError) as error:
            client.post_log(model_id, client=None, log="asked of a hung hub", success=True, timeout_s=0.4)
        assert error.value.sent
        assert "asked of a hung hub" not in logs(hub, model_id)
        proxy.set(OK)
        wait_until(lambda: "asked of a hung hub" in logs(hub, model_id), what="the late question")
        client.put_status(model_id, ModelStatus.INITIATED)


def test_a_hub_that_is_away_refuses_and_cuts_and_keeps_its_address(
    hub: RunningHub, proxy: FaultyHub, model_id: UUID
) -> None:
    """Refused is another thing than hung: it is known that nothing was sent. And nobody may take the port meanwhile."""
    port = urlsplit(proxy.url).port
    with closing(HubClient(through(proxy, hub))) as client:
        client.put_status(model_id, ModelStatus.INITIATED)
        proxy.set(AWAY)
        for _ in range(2):
            with pytest.raises(HttpConnectionError) as error:
                client.put_status(model_id, ModelStatus.PREPARED, timeout_s=2.0)
        assert not error.value.sent
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        proxy.set(AWAY)
        proxy.set(OK)
        client.put_status(model_id, ModelStatus.PREPARED)
    assert hub.call("GET", f"/model/{model_id}/status").json()["status"] == "PREPARED"


def test_the_fault_changes_for_a_question_under_way(hub: RunningHub, proxy: FaultyHub) -> None:
    """A hub that falls silent in the middle of an answer, and one that wakes, must do so for who waits already."""
    proxy.set(HUNG)
    answers: list[int] = []
    asking = threading.Thread(
        target=lambda: answers.append(
            requests.get(f"{proxy.url}/health", headers={KEY_HEADER: hub.key}, timeout=10).status_code
        )
    )
    asking.start()
    time.sleep(0.3)
    assert answers == []
    proxy.set(OK)
    asking.join(5)
    assert answers == [200]


def test_nothing_of_the_proxy_is_left_behind(hub: RunningHub) -> None:
    """A run must end with its ports free and its threads gone, whatever hangs in the proxy."""
    before = threading.active_count()
    with (
        faulty_hub(hub.base, HUNG) as between,
        socket.create_connection(("127.0.0.1", urlsplit(between.url).port or 0)),
    ):
        assert between.url.endswith("/api")
        assert between.fault is HUNG
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{between.url}/health", timeout=2)
    between.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="is no http address"):
        FaultyHub("https://hub.example.org/api")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("hub-slow=2s", slow(2.0)),
        ("hub-slow=500ms", slow(0.5)),
        ("hub-slow=0.25s", slow(0.25)),
        ("hub-hung", HUNG),
        ("hub-away", AWAY),
    ],
)
def test_a_fault_is_read_as_it_is_written(text: str, fault: HubFault) -> None:
    """The word that a person types and the one that is shown must mean the same."""
    assert HubFault.parse(text) == fault
    assert HubFault.parse(str(fault)) == fault


@pytest.mark.parametrize("text", ["", "hub-slow", "hub-slow=", "hub-slow=0s", "hub-slow=-1s", "hub-slow=2", "hub-ok"])
def test_a_fault_that_is_none_is_refused(text: str) -> None:
    """A misspelt fault must not pass for a healthy hub: the rehearsal would prove nothing."""
    with pytest.raises(ValueError, match="hub"):
        HubFault.parse(text)
    with pytest.raises(ValueError, match="delay"):
        HubFault(HubMode.HUNG, 1.0)


# -- whole runs ------------------------------------------------------------------------------------------------------

ROUNDS = 2
# One representative of each kind of trouble for every day, on the engine that it would hurt most; all for the soak.
DAILY = {("flower", HUNG), ("nvflare", slow(1.0))}
RUNS = [
    pytest.param(engine, fault, id=f"{engine}-{fault}", marks=[] if (engine, fault) in DAILY else [pytest.mark.soak])
    for engine in ENGINES
    for fault in (HUNG, AWAY, slow(1.0))
]


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize(("engine", "fault"), RUNS)
def test_a_run_trains_to_its_end_whatever_the_hub_does_and_its_story_is_whole(
    engine: str, fault: HubFault, tmp_path: Path
) -> None:
    """Training does not depend on the hub: the model is there, and when the hub is, too, it has heard all, once."""
    app = write_app(tmp_path / "app", GLOBAL_ROUNDS=ROUNDS, LOCAL_ROUNDS=3)
    while_training: list[Progress] = []
    options = RunOptions(app=app, engine=engine, sites=2, out=tmp_path / "run", hub_fault=fault)
    outcome = run(options, while_training.append)
    story = outcome.story
    assert (outcome.exit_code, story.status, story.reason) == (0, ModelStatus.RESULTS_UPLOADED, None)
    applied = [step.status.value for step in story.history if step.applied]
    assert applied == ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]
    assert [(each.number, each.returned, each.expected) for each in story.rounds] == [(1, 2, 2), (2, 2, 2)]
    assert all(cell.state == "returned" for each in story.rounds for cell in each.cells)
    points = {(plot.label, plot.x_label): [len(series.points) for series in plot.series] for plot in story.plots}
    assert points[("step_loss", "Step")] == [3 * ROUNDS, 3 * ROUNDS]
    assert points[("loss", DEFAULT_X_LABEL)] == [ROUNDS, ROUNDS]
    assert not story.failures
    assert story.model.facts["Fault"] == f"{fault} while the engine ran"
    seen = {news.stage for news in while_training}
    assert ("train" in seen or "validate" in seen) == (fault.mode is HubMode.SLOW)
    assert not list((tmp_path / "run" / "state" / "outbox").glob("*.sqlite"))
    # the engine was given the proxy's address, and nobody answers there any more
    given = load(ServerSettings, tmp_path / "run" / "state" / "settings" / "server.env").hub_url
    with closing(HubClient(settings(given, "k"))) as client, pytest.raises(HttpConnectionError):
        client.put_status(uuid4(), ModelStatus.RUNNING, timeout_s=2.0)


def test_a_mistyped_fault_is_told_before_anything_starts(tmp_path: Path) -> None:
    """A rehearsal without its fault would prove nothing: exit code 2, with the faults there are."""
    write_app(tmp_path / "app")
    for word, suggestion in (
        ("hub-hang", "hub-hung"),
        ("hub-slow=2", "hub-slow=2s"),
        ("disk-full", "--fault hub-slow=2s"),
    ):
        document = flip_fl("run", "app", "--fault", word, "--json", cwd=tmp_path).document()
        assert (document["exit_code"], document["code"]) == (2, "FLIP-E0102")
        assert word in document["message"]
        assert "hub-slow=2s, hub-hung, hub-away" in document["message"]
        assert suggestion in document["fix"]
    assert not (tmp_path / "runs").exists()
