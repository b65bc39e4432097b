"""A hub that is not well: real sockets between the real sender and the real hub."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import parsedate_to_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from flip_fl.simulate.faults import (
    AWAY,
    BLACK_HOLE,
    CUT,
    FAULTS,
    GARBAGE,
    HUNG,
    NOISE,
    OK,
    RESET,
    RESET_ANSWER,
    FaultyHub,
    HubFault,
    HubMode,
    Step,
    answers,
    faulty_hub,
    slow,
    too_large,
    wrong_clock,
)
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
    times = []
    for number in range(1, METRICS):
        begin = time.perf_counter()
        assert reporting.reporter.metric("Trust_1", "loss", float(number), 1, x_value=number)
        times.append(time.perf_counter() - begin)
        time.sleep(0.02)
    reporting.reporter.failure("Trust_2", "one bad study", 1)
    if fault is HUNG:
        # it costs a time-out a try and is asked again: several copies of one batch wait in the proxy then
        wait_until(lambda: proxy.connections >= 3, timeout_s=30, what="a second try")
    if fault in (HUNG, AWAY):
        assert stored(hub, model_id) == [0.0]
    # A busy machine may hold up some of them; a hub that is waited for holds up every one.
    assert statistics.median(times) < 0.1
    proxy.set(OK)
    # the late copies may be there before the sender itself knows that the hub is back
    wait_until(lambda: read_stats(reporting.path).pending == 0, timeout_s=60, what="the rest")
    reporting.lifecycle.stop("stopped at the test")
    reporting.lifecycle.finish()
    assert reporting.close(60.0)
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
            assert 0.25 <= time.monotonic() - begin < 10
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
        for reuse in (0, 1):  # as most servers set it
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
                with pytest.raises(OSError, match="in use"):
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
            requests.get(f"{proxy.url}/health", headers={KEY_HEADER: hub.key}, timeout=60).status_code
        )
    )
    asking.start()
    time.sleep(0.3)
    assert answers == []
    proxy.set(OK)
    asking.join(60)
    assert answers == [200]


def ask(
    proxy: FaultyHub, hub: RunningHub, text: str, key: str | None = None, *, timeout_s: float = 60.0
) -> requests.Response:
    """Post one row to the only model of the hub's world."""
    headers = {KEY_HEADER: hub.key} | ({"Idempotency-Key": key} if key else {})
    url = f"{proxy.url}/model/{hub.world.model_id}/logs"
    return requests.post(url, json={"log": text}, headers=headers, timeout=timeout_s, allow_redirects=False)


@pytest.mark.parametrize(
    ("fault", "heard"),
    [(RESET, False), (RESET_ANSWER, True), (CUT, True), (NOISE, False), (BLACK_HOLE, False)],
    ids=str,
)
def test_a_caller_who_hears_nothing_cannot_know_whether_the_hub_did(
    fault: HubFault, heard: bool, hub: RunningHub, proxy: FaultyHub
) -> None:
    """The ambiguous faults must be what they are called: the same to the caller, and not the same to the hub."""
    text = f"asked {uuid4()}"
    # Where packets are lost nothing ever comes; all others end the connection, after the hub has done its part.
    timeout_s = 0.5 if fault is BLACK_HOLE else 60.0
    with requests.Session() as kept_alive:
        assert kept_alive.get(f"{proxy.url}/health", timeout=60).status_code == 200
        proxy.set(fault)
        with pytest.raises(requests.RequestException):
            kept_alive.get(f"{proxy.url}/health", timeout=timeout_s)
    with pytest.raises(requests.RequestException) as error:
        ask(proxy, hub, text, timeout_s=timeout_s)
    assert isinstance(error.value, requests.ConnectTimeout) == (fault is BLACK_HOLE)
    assert (text in logs(hub, hub.world.model_id)) == heard
    proxy.set(OK)
    assert ask(proxy, hub, f"{text} again").status_code == 200


def test_packets_that_were_lost_get_through_when_the_way_is_open_again(hub: RunningHub, proxy: FaultyHub) -> None:
    """A connection that is being made in an outage comes about after it, without another try of the caller."""
    proxy.set(BLACK_HOLE)
    answered: list[int] = []
    url = f"{proxy.url}/health"
    asking = threading.Thread(target=lambda: answered.append(requests.get(url, timeout=60).status_code))
    asking.start()
    time.sleep(0.3)
    assert answered == []
    proxy.set(OK)
    asking.join(60)
    assert answered == [200]


@pytest.mark.parametrize(
    ("fault", "status", "wait"),
    [
        (answers(500), 500, None),
        (answers(401), 401, None),
        (answers(302), 302, None),
        (answers(429), 429, None),
        (answers(429, retry_after_s=7), 429, "7"),
        (answers(503, retry_after_s=7, as_date=True, clock_s=-3600), 503, "date"),
        (too_large(20), 413, None),
        (GARBAGE, 200, None),
    ],
    ids=str,
)
def test_an_answer_that_is_not_the_hubs_is_given_and_the_hub_hears_nothing(
    fault: HubFault, status: int, wait: str | None, hub: RunningHub, proxy: FaultyHub
) -> None:
    """Whoever answers in the hub's place must not let the question pass: what is retried would be there twice."""
    text = f"asked {uuid4()}"
    proxy.set(fault)
    answer = ask(proxy, hub, text)
    assert answer.status_code == status
    assert ("<title>" in answer.text) == (fault is GARBAGE)
    told = answer.headers.get("Retry-After")
    if wait == "date":
        until, now = (parsedate_to_datetime(answer.headers[name]) for name in ("Retry-After", "Date"))
        assert (until - now).total_seconds() == 7
        assert abs(time.time() - 3600 - now.timestamp()) < 60
    else:
        assert told == wait
    assert text not in logs(hub, hub.world.model_id)
    assert [asked.fault for asked in proxy.asked] == [fault]


def test_a_body_within_the_limit_and_a_wrong_clock_reach_the_hub(hub: RunningHub, proxy: FaultyHub) -> None:
    """A hub that refuses large bodies takes the others, and one whose clock is off is well but for that."""
    proxy.set(too_large(1_000))
    assert ask(proxy, hub, "a small one").status_code == 200
    proxy.set(wrong_clock(86_400))
    answer = ask(proxy, hub, "from tomorrow")
    assert answer.status_code == 200
    assert parsedate_to_datetime(answer.headers["Date"]).timestamp() - time.time() > 80_000
    assert {"a small one", "from tomorrow"} <= set(logs(hub, hub.world.model_id))


def test_a_schedule_goes_from_step_to_step_and_ends_well(hub: RunningHub, proxy: FaultyHub) -> None:
    """So many requests, then so many seconds, then the next: a test must know which request met what."""
    proxy.play(
        [
            Step(answers(500), requests=2),
            Step(OK, requests=1),
            Step(HUNG, requests=1),
            Step(answers(429), seconds=0.3),
            Step(AWAY, seconds=2.0),
            Step(answers(403), requests=1),
        ]
    )
    seen: list[int] = [ask(proxy, hub, "in order").status_code for _ in range(3)]
    with pytest.raises(requests.ReadTimeout):
        ask(proxy, hub, "into a hung hub", timeout_s=0.5)
    seen.append(ask(proxy, hub, "in order").status_code)
    wait_until(lambda: proxy.fault == AWAY, what="the next step")
    with pytest.raises(requests.ConnectionError):
        ask(proxy, hub, "to nobody")
    wait_until(lambda: proxy.fault == answers(403), what="the next step")
    seen += [ask(proxy, hub, "in order").status_code for _ in range(2)]
    assert seen == [500, 500, 200, 429, 403, 200]
    assert proxy.fault == OK
    assert [asked.fault.mode for asked in proxy.asked].count(HubMode.HUNG) == 1
    for wrong in ({"requests": 0}, {"requests": 1, "seconds": 1.0}, {"seconds": 0.0}):
        with pytest.raises(ValueError, match="a step lasts"):
            Step(HUNG, **wrong)
    with pytest.raises(ValueError, match="no request comes there"):
        Step(BLACK_HOLE, requests=1)


def test_a_hub_that_lacks_the_batch_route_or_knows_no_keys_is_stood_in_for(hub: RunningHub) -> None:
    """FLIP's hub has neither; what is sent to it must be tried against one that stores a repeated post twice."""
    again, key = f"twice {uuid4()}", str(uuid4())
    with faulty_hub(hub.base, batch_route=False, keeps_keys=False) as plain, faulty_hub(hub.base) as ours:
        events = requests.post(f"{plain.url}/model/{hub.world.model_id}/events", json={"items": []}, timeout=60)
        assert (events.status_code, events.json()) == (404, {"detail": "Not Found"})
        assert [ask(plain, hub, again, key).headers.get("Idempotency-Key") for _ in range(2)] == [None, None]
        assert logs(hub, hub.world.model_id).count(again) == 2
        assert [ask(ours, hub, f"{again} not", key).headers.get("Idempotency-Key") for _ in range(2)] == [key, key]
        assert logs(hub, hub.world.model_id).count(f"{again} not") == 1


class _InPieces(BaseHTTPRequestHandler):
    """Answers in chunks, or until it hangs up."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        size = int(self.rfile.readline(), 16)
        said = self.rfile.read(size)
        assert self.rfile.read(7) == b"\r\n0\r\n\r\n"
        self.send_response(200)
        if self.path.endswith("/chunks"):
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for piece in (said, said):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(said * 2)

    def log_message(self, format: str, *args: object) -> None:
        """Tests look at what was answered."""


def test_messages_in_pieces_pass_whole() -> None:
    """The proxy must not be a fault of its own to whoever sends or answers in chunks, or until the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _InPieces) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        with faulty_hub(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
            for path in ("chunks", "end", "chunks"):
                answer = requests.post(f"{proxy.url}/{path}", data=iter([b"all of it"]), timeout=60)
                assert answer.content == b"all of it" * 2
        server.shutdown()


def test_nothing_of_the_proxy_is_left_behind(hub: RunningHub) -> None:
    """A run must end with its ports free and its threads gone, whatever hangs in the proxy."""
    before = {*threading.enumerate()}  # those of a former test may be about to end
    with (
        faulty_hub(hub.base, HUNG) as between,
        socket.create_connection(("127.0.0.1", urlsplit(between.url).port or 0)),
    ):
        assert between.url.endswith("/api")
        assert between.fault is HUNG
        between.play([Step(BLACK_HOLE, seconds=60)])
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{between.url}/health", timeout=2)
    between.close()
    assert {*threading.enumerate()} <= before
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
        ("hub-black-hole", BLACK_HOLE),
        ("hub-500", answers(500)),
        ("hub-429", answers(429)),
        ("hub-429=1.5s", answers(429, retry_after_s=1.5)),
        ("hub-cut", CUT),
        ("hub-reset", RESET),
        ("hub-garbage", GARBAGE),
    ],
)
def test_a_fault_is_read_as_it_is_written(text: str, fault: HubFault) -> None:
    """The word that a person types and the one that is shown must mean the same."""
    assert HubFault.parse(text) == fault
    assert HubFault.parse(str(fault)) == fault


def test_every_fault_that_is_offered_can_be_said() -> None:
    """The list that a person is shown must hold what the program reads, and nothing else."""
    assert [str(HubFault.parse(text)) for text in FAULTS] == list(FAULTS)


@pytest.mark.parametrize(
    "text",
    ["", "hub-slow", "hub-slow=", "hub-slow=0s", "hub-slow=-1s", "hub-slow=2", "hub-ok", "hub-200", "hub-401=2s"],
)
def test_a_fault_that_is_none_is_refused(text: str) -> None:
    """A misspelt fault must not pass for a healthy hub: the rehearsal would prove nothing."""
    with pytest.raises(ValueError, match="hub"):
        HubFault.parse(text)
    with pytest.raises(ValueError, match="delay"):
        HubFault(HubMode.HUNG, 1.0)
    with pytest.raises(ValueError, match="status"):
        answers(200)
    with pytest.raises(ValueError, match="Retry-After"):
        HubFault(HubMode.OK, retry_after_s=1.0)
    with pytest.raises(ValueError, match="date"):
        answers(429, as_date=True)
    with pytest.raises(ValueError, match="limit"):
        too_large(0)
    with pytest.raises(ValueError, match="clock"):
        wrong_clock(float("inf"))


# -- whole runs ------------------------------------------------------------------------------------------------------

ROUNDS = 2
# One for every day, all for the soak: away and slow are in tests/integration/test_reporting_runs.py, on both engines.
DAILY = {("flower", HUNG)}
RUNS = [
    pytest.param(engine, fault, id=f"{engine}-{fault}", marks=[] if (engine, fault) in DAILY else [pytest.mark.soak])
    for engine in ENGINES
    for fault in (HUNG, AWAY, slow(1.0), BLACK_HOLE, answers(500), answers(401), CUT, GARBAGE)
]


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize(("engine", "fault"), RUNS)
def test_a_run_trains_to_its_end_whatever_the_hub_does_and_its_story_is_whole(
    engine: str, fault: HubFault, tmp_path: Path
) -> None:
    """Training does not depend on the hub: the model is there, and when the hub is, too, it has heard all, once."""
    # Behind a slow hub the run must last until something is heard of it.
    pause = "import time; time.sleep(2)" if fault.mode is HubMode.SLOW else "pass"
    app = write_app(tmp_path / "app", in_train=pause, GLOBAL_ROUNDS=ROUNDS, LOCAL_ROUNDS=3)
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
    if fault is not CUT:  # such a hub hears now and then
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
        ("hub-blackhole", "hub-black-hole"),
        ("disk-full", "--fault hub-slow=2s"),
    ):
        document = flip_fl("run", "app", "--fault", word, "--json", cwd=tmp_path).document()
        assert (document["exit_code"], document["code"]) == (2, "FLIP-E0102")
        assert word in document["message"]
        assert ", ".join(FAULTS) in document["message"]
        assert suggestion in document["fix"]
    assert not (tmp_path / "runs").exists()
