"""A thousand mixed reports through everything that can be wrong with a hub: once, in order, at its database."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from _pytest.mark import ParameterSet
from sqlmodel import col, select

from flip_fl import wire
from flip_fl.http import CONNECT_TIMEOUT_S
from flip_fl.hub import admin
from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, StatusHistory
from flip_fl.hub.words import STATUS_SENTENCES
from flip_fl.reporting.backoff import Backoff
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import record_of
from flip_fl.reporting.sender import Pace, Sender
from flip_fl.reporting.stats import read_stats
from flip_fl.simulate.faults import (
    AWAY,
    BLACK_HOLE,
    CUT,
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
from flip_fl.values import ModelStatus
from tests.support.databases import PostgresServer
from tests.support.hub import RunningHub, running_hub, world
from tests.support.reporting import settings, wait_until

TIMEOUT_S = 0.5
PACE = Pace(flush_s=0.02, heartbeat_s=60.0, request_timeout_s=TIMEOUT_S, outage_patience_s=30.0)
# One by one a request that is answered late is in doubt, or comes in another order: a busy machine's must not be.
ONE_BY_ONE = replace(PACE, request_timeout_s=2.0)
PATIENT = replace(PACE, request_timeout_s=30.0)
SITES = ("Trust_1", "Trust_2", "Trust_3")
REASON = "Trust_2: out of memory"


# -- what is reported, and what of it stands at the hub -------------------------------------------------------------


@dataclass(frozen=True)
class Told:
    """What a hub was told, by lane and site, each in order. ``statuses`` are the changes that it made."""

    statuses: list[str]
    failures: dict[str | None, list[str]]
    events: dict[str | None, list[tuple[str | None, int | None]]]
    metrics: dict[str, list[tuple[str, int, float]]]


def workload(rounds: int, metrics: int) -> list[wire.Item]:
    """A run of three sites that fails at its end: ``4 + rounds * (13 + 3 * metrics)`` reports, in their order."""

    def at() -> datetime:
        return datetime.now(UTC)

    items: list[wire.Item] = [
        wire.StatusItem(at=at(), status=ModelStatus.INITIATED),
        wire.StatusItem(at=at(), status=ModelStatus.PREPARED),
        wire.StatusItem(at=at(), status=ModelStatus.RUNNING),
    ]
    for number in range(1, rounds + 1):
        items.append(wire.EventItem(at=at(), event_type="ROUND_STARTED", global_round=number))
        for step in range(metrics):
            items += [
                wire.MetricItem(at=at(), client=site, global_round=number, label="loss", result=float(step))
                for site in SITES
            ]
        for site in SITES:
            items += [
                wire.LogItem(at=at(), client=site, log=f"first study of round {number}", success=False),
                wire.LogItem(at=at(), client=site, log=f"second study of round {number}", success=False),
                wire.EventItem(
                    at=at(), event_type="CLIENT_RESULT_RECEIVED", client=site, global_round=number, details={}
                ),
                wire.LogItem(at=at(), client=site, log=f"note of round {number}"),
            ]
    items.append(wire.StatusItem(at=at(), status=ModelStatus.ERROR, reason=REASON))
    return items


def expected(items: Sequence[wire.Item]) -> Told:
    """What a hub tells that heard each of ``items`` once and in order."""
    told = Told(["INITIATED", "PREPARED", "RUNNING", "ERROR"], {None: [REASON]}, {None: []}, {})
    for item in items:
        match item:
            case wire.MetricItem():
                told.metrics.setdefault(item.client, []).append((item.label, item.global_round, item.result))
            case wire.LogItem(success=False):
                told.failures.setdefault(item.client, []).append(item.log)
            case wire.LogItem():
                told.events.setdefault(item.client, []).append((item.log, None))
            case wire.EventItem():
                told.events.setdefault(item.client, []).append((item.event_type, item.global_round))
    return told


def stored(hub: RunningHub, model_id: UUID) -> Told:
    """What stands in the hub's database."""
    told = Told([], {}, {}, {})
    with hub.world.session() as session:
        history = select(StatusHistory).where(StatusHistory.model_id == model_id).order_by(col(StatusHistory.id))
        told.statuses.extend(step.status.value for step in session.exec(history) if step.previous is not None)
        rows = select(FlLog).where(FlLog.model_id == model_id).order_by(col(FlLog.id))
        for row in session.exec(rows):
            if row.event_type is not None:
                told.events.setdefault(row.fl_client_name, []).append((row.event_type, row.global_round))
            elif row.log in STATUS_SENTENCES.values():
                continue
            elif row.success:
                told.events.setdefault(row.fl_client_name, []).append((row.log, None))
            else:
                told.failures.setdefault(row.fl_client_name, []).append(str(row.log))
        points = select(FlMetric).where(FlMetric.model_id == model_id).order_by(col(FlMetric.id))
        for point in session.exec(points):
            key = str(point.fl_client_name)
            told.metrics.setdefault(key, []).append((point.label, point.global_round, point.result))
    return told


def ledger(hub: RunningHub, model_id: UUID) -> int:
    """How many ids the hub keeps of the model."""
    with hub.world.session() as session:
        return len(session.exec(select(EventLedger.event_id).where(EventLedger.model_id == model_id)).all())


# -- a hub on each database, and a sender to it ---------------------------------------------------------------------


@contextmanager
def hub_on(url: str) -> Iterator[RunningHub]:
    with world(url) as filled, running_hub(filled) as running:
        yield running


@pytest.fixture(scope="module")
def sqlite_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """One hub for all; each test makes a model of its own."""
    url = f"sqlite:///{tmp_path_factory.mktemp('hub') / 'hub.sqlite'}"
    admin.init_database(url)
    with hub_on(url) as running:
        yield running


@pytest.fixture(scope="module")
def postgresql_hub(postgres: PostgresServer) -> Iterator[RunningHub]:
    with hub_on(postgres.hub_database()) as running:
        yield running


def new_model(hub: RunningHub) -> UUID:
    """A model of three sites."""
    filled = hub.world
    with admin.open_session(filled.url) as session:
        trusts = [filled.guys, filled.kings, filled.outsider]
        return admin.create_model(session, "Stroke", f"m {uuid4()}", "", trusts=trusts).id


@contextmanager
def sending(box: Outbox, proxy: FaultyHub, hub: RunningHub, model_id: UUID, *, pace: Pace = PACE) -> Iterator[Sender]:
    """A sender with short waits; longer ones only where the hub asks for them."""
    client = HubClient(settings(proxy.url, hub.key))
    sender = Sender(box, client, model_id, pace=pace, backoff=Backoff(lambda low, high: min(high, 0.05)))
    sender.start()
    try:
        yield sender
    finally:
        sender.close(30.0)


def report(box: Outbox, items: Sequence[wire.Item]) -> None:
    """Report as a run does: little by little, while the sender is at work."""
    for start in range(0, len(items), 40):
        assert box.append([record_of(item) for item in items[start : start + 40]])
        time.sleep(0.01)


def delivered(box: Outbox) -> None:
    wait_until(box.is_empty, 60, "delivery")


# -- our hub --------------------------------------------------------------------------------------------------------

A_THOUSAND = (6, 51)
UNREACHABLE = (HubMode.AWAY, HubMode.BLACK_HOLE)
LOCKED_OUT = (401, 403)

FAULTS = (
    AWAY,
    BLACK_HOLE,
    slow(0.1),
    slow(0.8),
    HUNG,
    answers(500),
    answers(502),
    answers(503, retry_after_s=0),
    answers(429),
    answers(429, retry_after_s=1),
    answers(429, retry_after_s=1, as_date=True, clock_s=3600),
    answers(429, retry_after_s=1, as_date=True, clock_s=-3600),
    answers(400),
    answers(404),
    answers(302),
    answers(401),
    answers(403),
    too_large(20_000),
    RESET,
    RESET_ANSWER,
    CUT,
    GARBAGE,
    NOISE,
    wrong_clock(86_400),
)
# What leaves two copies of a batch on their way, or one that is stored and unconfirmed, is every database's affair.
CASES = [("sqlite", fault) for fault in FAULTS] + [("postgresql", fault) for fault in (HUNG, CUT)]


def amid(fault: HubFault) -> list[Step]:
    """A schedule in which the fault strikes a sender that is at work."""
    if fault.mode in UNREACHABLE or fault.status == 400:
        # a 400 that ends between a batch and the question whether the hub refuses everything would be the batch's fault
        return [Step(OK, requests=1), Step(fault, seconds=2.0)]
    if fault.mode in (HubMode.TOO_LARGE, HubMode.OK) or 0 < fault.delay_s < TIMEOUT_S:
        return [Step(fault)]
    again = 1 if fault.retry_after_s else 3
    return [Step(OK, requests=1), Step(fault, requests=again), Step(OK, requests=1), Step(fault, requests=1)]


@pytest.mark.parametrize(("database", "fault"), CASES, ids=lambda value: str(value))
def test_a_thousand_reports_arrive_once_and_in_order_through(
    database: str, fault: HubFault, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """A fault costs time only: in the hub's database stands what was reported, once, in order per lane and site."""
    hub: RunningHub = request.getfixturevalue(f"{database}_hub")
    model_id = new_model(hub)
    items = workload(*A_THOUSAND)
    assert len(items) == 1000
    box = Outbox(tmp_path / f"{model_id}.sqlite")
    with faulty_hub(hub.base) as proxy:
        if fault.status in LOCKED_OUT:
            proxy.play([Step(OK, requests=1), Step(fault)])
            locked_out(box, proxy, hub, model_id, items[:500])
            # once, and once more at its end: nobody is asked again and again with a wrong key
            assert [each.fault for each in proxy.asked].count(fault) == 2
            proxy.set(OK)
            items_left = items[500:]
        else:
            proxy.play(amid(fault))
            items_left = items
        with sending(box, proxy, hub, model_id):
            report(box, items_left[:40])
            # A sender that gets its turn when all is reported would be done before the fault strikes twice.
            wait_until(lambda: len(proxy.asked) > 0, what="the first request")
            report(box, items_left[40:])
            delivered(box)
        check_the_trouble(fault, proxy, box)
    assert stored(hub, model_id) == expected(items)
    assert ledger(hub, model_id) == 1000
    assert read_stats(tmp_path / f"{model_id}.sqlite").losses == {}
    box.close()


def locked_out(box: Outbox, proxy: FaultyHub, hub: RunningHub, model_id: UUID, items: Sequence[wire.Item]) -> None:
    """A sender whose key the hub does not take, until a person ends its run to mend that."""
    with sending(box, proxy, hub, model_id):
        report(box, items)
        assert box.path is not None
        path = box.path
        wait_until(lambda: read_stats(path).paused is not None, what="the pause")


def check_the_trouble(fault: HubFault, proxy: FaultyHub, box: Outbox) -> None:
    """That the fault did strike, that it was noticed, and that the hub was asked no sooner than it wanted to be."""
    assert box.path is not None
    asked = proxy.asked
    if fault.mode in UNREACHABLE:
        assert read_stats(box.path).last_error is not None
    else:
        assert sum(each.fault == fault for each in asked) >= 2
    for before, after in itertools.pairwise(asked):
        if before.fault.status in (429, 500, 502, 503):
            assert after.at - before.at >= max(0.045, 0.95 * (before.fault.retry_after_s or 0.0))


# -- hubs without the batch route -----------------------------------------------------------------------------------

SMALL = (2, 8)
# After these it is known that the hub stored nothing; after the others nobody knows.
CLEAR = (answers(500), answers(429, retry_after_s=1))
DOUBTFUL = (BLACK_HOLE, CUT, answers(502), RESET, RESET_ANSWER, GARBAGE, NOISE, AWAY, HUNG)


def one_by_one(faults: Sequence[HubFault]) -> list[ParameterSet]:
    """All of ``faults`` in one small run; a thousand reports through each for the soak."""
    each = [pytest.param((fault,), A_THOUSAND, id=str(fault), marks=pytest.mark.soak) for fault in faults]
    return [pytest.param(tuple(faults), SMALL, id="all"), *each]


def now_and_then(faults: Sequence[HubFault]) -> list[Step]:
    """A schedule that strikes in every lane."""
    # An outage is longer than a request waits.
    outage_s = ONE_BY_ONE.request_timeout_s + 0.2
    strikes = [
        Step(fault, seconds=outage_s) if fault.mode in UNREACHABLE else Step(fault, requests=1) for fault in faults
    ]
    calm = Step(OK, requests=60 // len(faults))
    return [part for strike in (strikes if len(faults) > 1 else strikes * 12) for part in (calm, strike)]


def told_one_by_one(
    hub: RunningHub, path: Path, faults: Sequence[HubFault], items: Sequence[wire.Item], *, keeps_keys: bool
) -> tuple[Told, dict[str, int]]:
    """Report ``items`` through ``faults`` to a hub without the batch route; what it has then, and what was lost."""
    model_id = new_model(hub)
    box = Outbox(path / f"{model_id}.sqlite")
    with faulty_hub(hub.base, batch_route=False, keeps_keys=keeps_keys) as proxy:
        proxy.play(now_and_then(faults))
        pace = PATIENT if set(faults) <= set(CLEAR) else ONE_BY_ONE
        with sending(box, proxy, hub, model_id, pace=pace):
            report(box, items)
            delivered(box)
        assert {each.fault for each in proxy.asked} >= {*faults}
        # the route that is not there is looked for once, and again only where its absence was not answered
        assert [each.path.endswith("/events") for each in proxy.asked].count(True) <= 3
    box.close()
    return stored(hub, model_id), read_stats(path / f"{model_id}.sqlite").losses


@pytest.mark.parametrize(("faults", "size"), one_by_one([*CLEAR, *DOUBTFUL]))
def test_one_by_one_each_report_arrives_once_where_the_hub_keeps_keys(
    faults: Sequence[HubFault], size: tuple[int, int], sqlite_hub: RunningHub, tmp_path: Path
) -> None:
    """A hub without our batch route that honours the Idempotency-Key: nothing is lost, doubled or out of order."""
    items = workload(*size)
    told, losses = told_one_by_one(sqlite_hub, tmp_path, faults, items, keeps_keys=True)
    assert told == expected(items)
    assert losses == {}


@pytest.mark.parametrize(("faults", "size"), [*one_by_one(CLEAR), *one_by_one(DOUBTFUL)])
def test_one_by_one_no_metric_is_doubled_where_the_hub_keeps_no_keys(
    faults: Sequence[HubFault], size: tuple[int, int], sqlite_hub: RunningHub, tmp_path: Path
) -> None:
    """A hub that would store a repeated post twice: statuses and failures are repeated all the same; a metric or event
    of which nobody knows whether it was stored is not, but counted, and the hub is told."""
    items = workload(*size)
    told, losses = told_one_by_one(sqlite_hub, tmp_path, faults, items, keeps_keys=False)
    wanted = expected(items)
    missing = 0
    for lane, found in ((wanted.metrics, told.metrics), (wanted.events, told.events)):
        for site, reports in lane.items():
            kept = found.get(site, [])
            there = set(kept)
            missing += len(reports) - len(kept)
            assert kept == [each for each in reports if each in there], f"doubled or out of order: {site}"
    assert missing <= losses.get("ambiguous", 0)
    own = [text for text in told.failures[None] if text.startswith("reporting: ")]
    if set(faults) <= set(CLEAR):
        assert (losses, own) == ({}, [])
    else:
        assert set(losses) == {"ambiguous"}
        assert own
    assert told.statuses == wanted.statuses
    for site, texts in wanted.failures.items():
        assert [text for text in dict.fromkeys(told.failures[site]) if text not in own] == texts


# -- the end of an outage -------------------------------------------------------------------------------------------


def test_an_outage_is_over_for_us_a_minute_after_it_is_over() -> None:
    """The longest wait between two tries, and the longest a try can take that began in the outage, are a minute."""
    patient = Backoff(lambda low, high: high)
    waits = [patient.failed() for _ in range(2_000)]
    assert waits[:6] == [1, 2, 4, 8, 16, 30]
    assert max(waits) + CONNECT_TIMEOUT_S + Pace().request_timeout_s <= 60
    assert patient.failed(3_600) <= 60
    patient.succeeded()
    assert patient.failed() == 1


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_long_outage_is_over_for_us_a_minute_after_it_is_over(sqlite_hub: RunningHub, tmp_path: Path) -> None:
    """With the times of a real run, whatever kind of outage it was."""
    with ExitStack() as stack:
        running = []
        for fault in (AWAY, BLACK_HOLE, HUNG, answers(500)):
            model_id = new_model(sqlite_hub)
            box = Outbox(tmp_path / f"{model_id}.sqlite")
            proxy = stack.enter_context(faulty_hub(sqlite_hub.base, fault))
            sender = Sender(box, HubClient(settings(proxy.url, sqlite_hub.key)), model_id)
            sender.start()
            stack.callback(box.close)
            stack.callback(sender.close, 0.5)
            report(box, workload(*SMALL))
            running.append((proxy, box))
        time.sleep(90)
        for proxy, _ in running:
            proxy.set(OK)
        wait_until(lambda: all(box.is_empty() for _, box in running), 60, "the end of each outage")
