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
from flip_fl.settings import ServerSettings
from flip_fl.simulate.faults import AWAY, HUNG, OK, FaultyHub, HubFault, HubMode, faulty_hub, slow
from flip_fl.values import ModelStatus
from tests.support.hub import KEY_HEADER, RunningHub, running_hub, world
from tests.support.reporting import settings, wait_until

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
    # a hung hub costs a time-out a try, and is asked again and again: several copies of one batch wait in the proxy
    time.sleep(1.0)
    if fault.mode is not HubMode.SLOW:
        assert stored(hub, model_id) == [0.0]
    assert slowest < 0.1
    assert proxy.connections >= (3 if fault is HUNG else 1)
    proxy.set(OK)
    wait_until(lambda: len(stored(hub, model_id)) >= METRICS, timeout_s=30, what="the rest")
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
