"""The outbox under every sequence of reporting, sending, failing, crashing and being full."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import Lane, Record, metric_records
from flip_fl.reporting.store import Dead
from flip_fl.values import ModelStatus
from tests.support.reporting import event, failure, metric, records, status

MAX_ROWS = 30

ITEMS = st.sampled_from(["metric", "metric", "metric", "event", "failure", "status", "end"])


class OutboxMachine(RuleBasedStateMachine):
    """A model of the outbox (what must be in it) beside the real file; the hub keeps ids once."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "outbox.sqlite"
        self.known: dict[bytes, Record] = {}
        self.order: list[bytes] = []
        self.hub: list[bytes] = []
        self.buried: set[bytes] = set()
        self.once: set[bytes] = set()
        self.crashes = 0

    @initialize()
    def open(self) -> None:
        self.box = Outbox(self.path, max_rows=MAX_ROWS)

    def made(self, kind: str) -> Record:
        makers = {
            "metric": metric,
            "event": event,
            "failure": failure,
            "status": lambda: status(ModelStatus.RUNNING),
            "end": lambda: status(ModelStatus.ERROR, "boom"),
        }
        return records(makers[kind]())[0]

    @rule(kinds=st.lists(ITEMS, min_size=1, max_size=12))
    def report(self, kinds: list[str]) -> None:
        batch = [self.made(kind) for kind in kinds]
        assert self.box.append(batch)
        for record in batch:
            self.known[record.id] = record
            self.order.append(record.id)

    @rule(count=st.integers(1, 12))
    def report_together(self, count: int) -> None:
        """The metrics of one reply, of which no copy comes."""
        made = [metric() for _ in range(count)]
        assert self.box.append(metric_records(made))
        for record in records(*made):
            self.known[record.id] = record
            self.order.append(record.id)
            self.once.add(record.id)

    @precondition(lambda self: set(self.order) - self.once)
    @rule(data=st.data())
    def report_again(self, data: st.DataObject) -> None:
        """The copy that rides in the task's result; of one that was dropped meanwhile it comes behind the others,
        whether the hub has it or not.
        """
        row_id = data.draw(st.sampled_from([each for each in self.order if each not in self.once]))
        gone = row_id not in self.pending()
        assert self.box.append([self.known[row_id]])
        if gone:
            self.order.remove(row_id)
            self.order.append(row_id)

    @rule(limit=st.integers(1, 20), release=st.booleans(), fate=st.sampled_from(["stored", "cut", "down", "half"]))
    def send(self, limit: int, release: bool, fate: str) -> None:
        held = self.held()
        batch = self.box.collect(limit, release=release)
        lanes = [record.lane for record in batch]
        assert lanes == sorted(lanes)
        if held is not None and not release:
            assert held not in [record.id for record in batch]
        taken = {"down": [], "half": batch[: len(batch) // 2]}.get(fate, batch)
        self.hub += [part.id for record in taken for part in record.parts() if part.id not in self.hub]
        self.box.settle([] if fate == "cut" else [record.id for record in taken])

    @rule()
    def refuse_one(self) -> None:
        batch = self.box.collect(1)
        if batch and batch[0].reports > 1:
            assert self.box.unfold([batch[0].id])
            batch = self.box.collect(1)
        if batch:
            self.box.settle([], [Dead(batch[0].id, LossReason.REFUSED, "unknown_client")])
            self.buried.add(batch[0].id)
        self.box.settle([])

    @rule()
    def crash_and_reopen(self) -> None:
        """What a kill leaves: the file and its log as they are, without a close."""
        left = self.path.with_name(f"{self.crashes}.sqlite")
        self.crashes += 1
        for suffix in ("", "-wal"):
            shutil.copy(f"{self.path}{suffix}", f"{left}{suffix}")
        self.box.close()
        self.path = left
        self.box = Outbox(self.path, max_rows=MAX_ROWS)

    def rows(self) -> list[tuple[bytes, int]]:
        """(id, lane) of what is in the file, read past the outbox so that nothing counts as collected."""
        with contextlib.closing(sqlite3.connect(self.path)) as sql:
            found = sql.execute("SELECT id, lane, body, count FROM pending ORDER BY lane, seq").fetchall()
        held = [Record(row_id, lane, body, reports=count) for row_id, lane, body, count in found]
        return [(part.id, record.lane) for record in held for part in record.parts()]

    def held(self) -> bytes | None:
        """A terminal status that is the last one, while other lanes hold something."""
        rows = self.rows()
        statuses = [row_id for row_id, lane in rows if lane == Lane.STATUS]
        if not statuses or not self.known[statuses[-1]].terminal or len(statuses) == len(rows):
            return None
        return statuses[-1]

    def pending(self) -> set[bytes]:
        return {row_id for row_id, _ in self.rows()}

    @invariant()
    def nothing_is_lost_or_made_up(self) -> None:
        if not hasattr(self, "box"):
            return
        pending = self.pending()
        assert pending <= set(self.known)
        # What is neither here nor at the hub was dropped at the cap, counted, and is never a status.
        gone = set(self.known) - pending - set(self.hub) - self.buried
        assert all(self.known[row_id].lane is not Lane.STATUS for row_id in gone)
        assert Outbox.stats(self.path).losses.get("full", 0) >= len(gone)

    @invariant()
    def it_stays_bounded_counts_right_and_keeps_its_order(self) -> None:
        if not hasattr(self, "box"):
            return
        rows = self.rows()
        depth = self.box.depth()
        assert {lane: sum(row_lane == lane for _, row_lane in rows) for lane in Lane} == depth
        assert len(rows) <= max(MAX_ROWS, depth[Lane.STATUS])
        place = {row_id: n for n, row_id in enumerate(self.order)}
        for lane in Lane:
            places = [place[row_id] for row_id, row_lane in rows if row_lane == lane]
            assert places == sorted(places)

    def teardown(self) -> None:
        if hasattr(self, "box"):
            self.box.close()
        self.folder.cleanup()


OutboxMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=20)
TestOutbox = OutboxMachine.TestCase
