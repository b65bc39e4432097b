"""From a site's task to the outbox, through our own executor's words and the widget's own handlers."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from nvflare.apis.client import Client
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import EventScope, FLContextKey, ReservedKey, ReturnCode, ServerCommandKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType

from flip_fl.app.runner import Session
from flip_fl.nvflare.executor import FlipExecutor
from flip_fl.nvflare.inbox import SiteInbox
from flip_fl.nvflare.protocol import BATCH_HEADER, LIVE_EVENT, get_batch, put_batch
from flip_fl.nvflare.reporter import WATCH_POLL_S, FlipReporter
from flip_fl.reporting.gaps import GRACE_S, HOLD_S
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import Lane
from flip_fl.reporting.stats import OutboxStats
from flip_fl.values import Task
from flip_fl.wire import LogItem, SiteBatch
from tests.support.app import TableSource, run, write_app
from tests.support.reporting import metric, wait_until

BURST = """
def train(model, site, config):
    for step in range(1000):
        site.log("burst", step, x_value=step, x_label="Step")
    return {"num_examples": 1, "loss": 0.5}

def validate(model, site, config):
    return {"num_examples": 1}
"""


class Server:
    """An FL server's widget in a run without a hub; what NVFLARE would hand to it is handed to it as NVFLARE does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outbox"
        self.model_id = uuid4()
        self.widget = FlipReporter()
        self.widget.open(LocalReporting(self.model_id, folder))

    def live(self, slot: str, batch: SiteBatch) -> None:
        event = Shareable()
        put_batch(event, batch)
        self.live_event(slot, event)

    def live_event(self, slot: str, event: Shareable) -> None:
        event.set_peer_props({ReservedKey.IDENTITY_NAME: slot})
        context = FLContext()
        context.set_prop(FLContextKey.EVENT_DATA, event, private=True, sticky=False)
        self.widget.handle_event(LIVE_EVENT, context)

    def result(self, slot: str, batch: SiteBatch | None, code: str = ReturnCode.OK) -> None:
        reply = make_reply(code)
        if batch is not None:
            put_batch(reply, batch)
        reply.set_header(ServerCommandKey.FL_CLIENT, Client(slot, "token"))
        context = FLContext()
        context.set_prop(FLContextKey.TASK_RESULT, reply, private=True, sticky=False)
        self.widget.handle_event(EventType.BEFORE_PROCESS_SUBMISSION, context)

    def end(self) -> tuple[list[dict[str, Any]], OutboxStats]:
        """End the run; what its outbox holds, lane by lane in order, and its counts."""
        self.widget.reporting.lifecycle.stop("enough")
        self.widget._end_run(FLContext())
        path = self.folder / f"{self.model_id}.sqlite"
        box = Outbox(path)
        try:
            return [record.item() for record in box.collect(100_000, 1 << 30, release=True)], Outbox.stats(path)
        finally:
            box.close()


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path / "state")


@pytest.fixture(scope="module")
def burst(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_app(tmp_path_factory.mktemp("burst") / "app", trainer=BURST)


def train(app: Path, slot: str, publish: Any) -> SiteBatch:
    """Run one real training task; what its result reports."""
    reports = run(app, slot=slot, session=Session(app, TableSource(), publish)).reports
    assert reports is not None
    return reports


class ClientEngine:
    """As much of NVFLARE's client engine as an executor needs to fire an event at ``server``."""

    def __init__(self, server: Server, slot: str, *, cut: bool = False) -> None:
        self.server, self.slot, self.cut = server, slot, cut

    def new_context(self) -> FLContext:
        context = FLContext()
        context.set_prop(ReservedKey.ENGINE, self, private=True)
        return context

    def fire_event(self, event_type: str, context: FLContext) -> None:
        assert event_type == LIVE_EVENT
        assert context.get_prop(FLContextKey.EVENT_SCOPE) == EventScope.FEDERATION
        if self.cut:
            raise ConnectionError("the channel is cut")
        self.server.live_event(self.slot, context.get_prop(FLContextKey.EVENT_DATA))


def steps(items: list[dict[str, Any]], slot: str) -> list[float]:
    return [item["result"] for item in items if item.get("client") == slot and item.get("label") == "burst"]


def told(items: list[dict[str, Any]]) -> list[str]:
    return [item["log"] for item in items if item["kind"] == "log"]


@pytest.mark.parametrize("cut", ["nothing", "live", "result"])
def test_with_either_channel_cut_everything_arrives_once_and_in_order(burst: Path, server: Server, cut: str) -> None:
    """The live channel is fire and forget, the result may lose its copy: one of them is enough, both are not two."""
    executor = FlipExecutor()
    context = ClientEngine(server, "Trust_1", cut=cut == "live").new_context()
    executor.handle_event(EventType.START_RUN, context)
    session = Session(burst, TableSource(), executor._publish)
    reply = executor._reply(run(burst, session=session), Task.TRAIN, Shareable())
    batch = get_batch(reply)
    assert batch is not None
    if cut == "result":
        batch = batch.model_copy(update={"first": batch.made, "items": []})
    server.result("Trust_1", batch)
    items, stats = server.end()
    assert steps(items, "Trust_1") == list(range(1000))
    assert [item["label"] for item in items if item["kind"] == "metric"].count("train_loss") == 1
    assert (told(items), stats.losses) == ([], {})


def test_a_burst_of_five_sites_out_of_order_is_stored_as_it_was_logged(burst: Path, server: Server) -> None:
    """5 × 1,000 metrics without a pause, delivered by many threads in any order beside the results: stored = logged."""
    draw = random.Random(4)
    slots = [f"Trust_{number}" for number in range(1, 6)]
    sent: dict[str, list[SiteBatch]] = defaultdict(list)
    results = {slot: train(burst, slot, sent[slot].append) for slot in slots}
    assert all(len(sent[slot]) >= 3 for slot in slots)
    start = threading.Barrier(10)

    def deliver(slot: str, batches: list[SiteBatch]) -> None:
        start.wait()
        for batch in batches:
            server.live(slot, batch)
        if slot in results and draw.random() < 0.5:
            server.result(slot, results.pop(slot))

    mixed = {slot: draw.sample(sent[slot], len(sent[slot])) for slot in slots}
    threads = [
        threading.Thread(target=deliver, args=(slot, mixed[slot][place::2])) for slot in slots for place in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for slot, reports in results.items():
        server.result(slot, reports)
    items, stats = server.end()
    for slot in slots:
        assert steps(items, slot) == list(range(1000))
    assert (told(items), stats.losses) == ([], {})


def test_a_site_that_died_in_a_task_leaves_its_gap_at_the_hub_and_in_the_losses(burst: Path, server: Server) -> None:
    """The result never came: what was numbered and did not come is one row and one count, by the end of the run."""
    sent: list[SiteBatch] = []
    reports = train(burst, "Trust_1", sent.append)
    for first in (0, 300, 700):
        server.live("Trust_1", reports.model_copy(update={"first": first, "items": reports.items[first:][:200]}))
    items, stats = server.end()
    assert steps(items, "Trust_1") == [*range(200), *range(300, 500), *range(700, 900)]
    assert told(items) == ["reporting: 300 of Trust_1's reports of train, round 1 never came"]
    (row,) = [item for item in items if item["kind"] == "log"]
    assert (row["client"], row["global_round"], row["success"]) == ("Trust_1", 1, False)
    assert stats.losses == {"missing": 300}
    assert stats.unreported == 0


def test_a_result_that_says_more_than_came_is_told_with_what_failed(burst: Path, server: Server) -> None:
    """A failed task's reply without its reports: its failure and the gap are both at the hub."""
    reports = train(burst, "Trust_1", None)
    server.result("Trust_1", reports.model_copy(update={"items": []}), ReturnCode.EXECUTION_EXCEPTION)
    items, stats = server.end()
    assert [text for text in told(items) if "reporting" in text] == [
        "reporting: 1001 of Trust_1's reports of train, round 1 never came"
    ]
    assert any("EXECUTION_EXCEPTION" in text for text in told(items))
    assert stats.losses == {"missing": 1001}


def test_what_the_two_channels_bring_twice_is_counted_once(server: Server) -> None:
    """Numbers that are not finite and reports that are none count once, although they travel twice."""
    wrong = {**metric().model_dump(mode="json"), "label": ""}
    odd = [{**metric(label="loss").model_dump(mode="json"), "result": math.nan} for _ in range(5)]
    batch = SiteBatch(task="train", round=1, items=[wrong, *odd])
    for send in (server.live, server.result):
        event = Shareable()
        # As a site of another make would write it: ours refuses to write what is not finite.
        facts = batch.model_dump(mode="json", exclude={"items"})
        event.set_header(BATCH_HEADER, json.dumps({**facts, "made": 6, "items": batch.items}))
        if send == server.live:
            server.live_event("Trust_1", event)
        else:
            server.widget.inbox.result("Trust_1", event, 1)
    items, stats = server.end()
    assert stats.losses == {"invalid": 1, "not_finite": 5}
    assert len(told(items)) == 2


def test_a_report_that_names_another_client_is_refused_counted_and_told(server: Server) -> None:
    """The authenticated peer decides whose report it is, and a refusal is no gap."""
    items = [each.model_dump(mode="json") for each in (metric(client="Trust_1"), metric(client="Trust_2"))]
    server.live("Trust_2", SiteBatch(task="train", round=4, items=items))
    server.result("Trust_2", SiteBatch(task="train", round=4, items=[*items, "nonsense"], made=3))
    stored, stats = server.end()
    assert [item["client"] for item in stored if item["kind"] == "metric"] == ["Trust_2"]
    # The result is a task of its own here: another id was made for it.
    assert told(stored) == [
        "reporting: 1 reports of Trust_2 were refused: they name another client than Trust_2",
        "reporting: 2 reports of Trust_2 were refused: they name another client than Trust_2",
    ]
    assert stats.losses == {"invalid": 3}


def test_what_a_site_says_of_its_work_and_its_clock_is_told(server: Server, tmp_path: Path) -> None:
    """From the task that leaves to the result that comes: the whole way, the work at the site, its labels, and a clock
    that is an hour ahead, whose times are put on the server's."""
    trainer = """
    def train(model, site, config):
        return {"num_examples": 129, "loss": 0.5, "label_counts": {"benign": 120, "malignant": 30}}
    def validate(model, site, config):
        return {"num_examples": 1}
    """
    context = FLContext()
    server.widget.handle_event(AppEventType.ROUND_STARTED, context)
    context.set_prop(FLContextKey.TASK_ID, "task-1", private=True, sticky=False)
    server.widget.handle_event(EventType.AFTER_TASK_DATA_FILTER, context)
    reports = train(write_app(tmp_path / "app", trainer=trainer), "Trust_1", None)
    assert reports.facts is not None
    assert reports.facts.began is not None
    assert reports.facts.ended is not None
    hour = timedelta(hours=1)
    facts = reports.facts.model_copy(update={"began": reports.facts.began + hour, "ended": reports.facts.ended + hour})
    items = [{**each, "at": str(datetime.fromisoformat(each["at"]) + hour)} for each in reports.items]
    reply = DXO(DataKind.WEIGHTS, data={"weight": np.zeros(4)}).to_shareable()
    put_batch(reply, reports.model_copy(update={"facts": facts, "items": items}))
    reply.set_header(ServerCommandKey.FL_CLIENT, Client("Trust_1", "token"))
    context.set_prop(FLContextKey.TASK_RESULT, reply, private=True, sticky=False)
    server.widget.handle_event(EventType.BEFORE_PROCESS_SUBMISSION, context)
    context.set_prop(AppConstants.TRAINING_RESULT, reply, private=True, sticky=False)
    context.set_prop(AppConstants.AGGREGATION_ACCEPTED, True, private=True, sticky=False)
    server.widget.handle_event(AppEventType.AFTER_CONTRIBUTION_ACCEPT, context)
    stored, _ = server.end()
    (details,) = [item["details"] for item in stored if item.get("event_type") == "CLIENT_RESULT_RECEIVED"]
    assert details["computed"] == round(reports.facts.seconds or 0, 3)
    assert details["seconds"] >= details["computed"]
    assert details["labels"] == {"benign": 120, "malignant": 30}
    assert 3599 < details["clock"][0] <= details["clock"][1] < 3601
    (metric_at,) = [datetime.fromisoformat(item["at"]) for item in stored if item["kind"] == "metric"]
    assert abs(datetime.now(UTC) - metric_at) < timedelta(minutes=1)


@pytest.mark.parametrize(
    "header",
    ["{", "3", "[]", '{"task": ""}', '{"task": "train", "first": -1}', 7, "[" * 100_000, "1" * 5000, "\ud800"],
    ids=["half", "number", "list", "no task", "minus one", "no text", "deep", "long number", "half a pair"],
)
def test_a_batch_that_cannot_be_read_costs_nothing_but_itself(server: Server, header: object) -> None:
    """Garbage is counted and told; the failure in the same reply is reported all the same."""
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    reply.set_header(BATCH_HEADER, header)
    reply.set_header(ServerCommandKey.FL_CLIENT, Client("Trust_1", "token"))
    with pytest.raises(ValueError):  # noqa: PT011
        get_batch(reply)
    context = FLContext()
    context.set_prop(FLContextKey.TASK_RESULT, reply, private=True, sticky=False)
    server.widget.handle_event(EventType.BEFORE_PROCESS_SUBMISSION, context)
    items, stats = server.end()
    assert told(items)[0] == "reporting: 1 reports of Trust_1 were refused: they cannot be read"
    assert "EXECUTION_EXCEPTION" in told(items)[1]
    assert stats.losses == {"invalid": 1}


def test_the_watch_gives_up_a_lost_batch_and_a_lost_site_while_the_run_goes_on(server: Server) -> None:
    """One lost batch must not hide the rest of a long training, nor need a dead site's gap wait for the run's end."""
    now = [0.0]
    widget = server.widget
    widget._inbox = SiteInbox(widget.reporting.reporter, lambda: now[0])
    box = widget.reporting.reporter._outbox
    row = LogItem(at=metric().at, client="Trust_1", log="late", success=True).model_dump(mode="json")
    server.live("Trust_1", SiteBatch(task="train", round=1, first=100, items=[row]))
    assert box.is_empty()
    watch = threading.Thread(target=widget._watch, args=(None, None))
    watch.start()
    try:
        time.sleep(1.5 * WATCH_POLL_S)
        assert box.is_empty()
        now[0] += HOLD_S
        wait_until(lambda: box.depth()[Lane.EVENT] == 1)
        context = FLContext()
        context.set_prop(FLContextKey.DISCONNECTED_CLIENT_NAME, "Trust_1")
        widget.handle_event(EventType.CLIENT_DISCONNECTED, context)
        now[0] += GRACE_S
        wait_until(lambda: box.depth()[Lane.FAILURE] == 2)
    finally:
        items, _ = server.end()
        watch.join()
    said = [text for text in told(items) if "is disconnected" not in text]
    assert said == ["reporting: 100 of Trust_1's reports of train, round 1 never came", "late"]


def test_a_run_that_ends_for_want_of_sites_names_them(server: Server) -> None:
    """ "Deployment policy violation" helps nobody: who is gone is what the hub's reader must learn, and only who is."""
    for event, key, slot in (
        (EventType.CLIENT_DISCONNECTED, FLContextKey.DISCONNECTED_CLIENT_NAME, "Trust_10"),
        (EventType.CLIENT_DISCONNECTED, FLContextKey.DISCONNECTED_CLIENT_NAME, "Trust_3"),
        (EventType.CLIENT_DISCONNECTED, FLContextKey.DISCONNECTED_CLIENT_NAME, "Trust_2"),
        (EventType.CLIENT_RECONNECTED, FLContextKey.RECONNECTED_CLIENT_NAME, "Trust_3"),
        (EventType.FATAL_SYSTEM_ERROR, FLContextKey.EVENT_DATA, "Aborting job due to deployment policy violation"),
    ):
        context = FLContext()
        context.set_prop(key, slot)
        server.widget.handle_event(event, context)
    reason = server.widget.reporting.lifecycle.reason
    server.end()
    assert "too few sites are left: Trust_2, Trust_10 disconnected" in str(reason)
