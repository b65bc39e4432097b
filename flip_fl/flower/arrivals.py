"""What becomes of each reply when it arrives: whose it is, what the hub is told of it, whether it can be used."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import NamedTuple

from flwr.app import Message, MetricRecord

from flip_fl.app.evaluation import BAD_PEER_CONTEXT
from flip_fl.flower.attribution import (
    MESSAGE_GONE,
    NODE_GONE,
    REPLY_GONE,
    Told,
    of_delay,
    of_error,
    of_refused_push,
    of_rejection,
    of_restart,
    of_silence,
)
from flip_fl.flower.identity import mismatch
from flip_fl.flower.phase import Phase
from flip_fl.flower.protocol import (
    ROWS_RECORD,
    SERIES_RECORD,
    SiteReport,
    as_whole,
    get_report,
    malformed,
    metrics_by_grammar,
    plain_metrics,
    stamp_slot,
)
from flip_fl.flower.quarantine import Quarantine, ReplyCheck, array_bytes, records_of
from flip_fl.flower.roster import Roster
from flip_fl.reporting.gaps import Missing
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.session import Reporting
from flip_fl.reporting.site_clocks import Ahead, SiteClocks
from flip_fl.values import Task, natural_key

logger = logging.getLogger("flip_fl.flower")

# What is done for a hundred replies in a row costs half of what it costs between other work: the processor has it at
# hand. Nobody sees that a reply's report waits this long for the next reply.
TOGETHER_S = 0.05
# What a SuperLink says of a message that was given up already.
_NOTHING_NEW = frozenset({MESSAGE_GONE, REPLY_GONE, NODE_GONE})


@dataclass(frozen=True)
class Asked:
    """A message on its way: to whom, what for, and since when (monotonic seconds). No message: it was given up."""

    slot: str
    message: Message | None
    task: Task
    number: int
    since: float
    stage: str | None = None


class Arrived(NamedTuple):
    """A reply, what it answers, when it came (monotonic seconds; and by the clock), and whether it was given up."""

    asked: Asked
    reply: Message
    at: float
    when: datetime
    late: bool

    @property
    def took_s(self) -> float:
        """Seconds from the question to the answer."""
        return self.at - self.asked.since


class Arrivals:
    """The replies of one phase after another. A reply belongs to the message that it answers, errors included.

    What comes in quick succession is read, judged and told at the hub together: at ``settle``, or with the first reply
    that comes ``TOGETHER_S`` after another one. Until then it is counted as answered only.
    """

    def __init__(self, reporting: Reporting | LocalReporting, check: ReplyCheck, roster: Roster) -> None:
        self._reporting = reporting
        self._reporter = reporting.reporter
        self._check = check
        self._roster = roster
        self._clocks = SiteClocks()
        # The slots that were asked, in natural order.
        self._places: dict[str, int] = {}
        self._pending: dict[str, Asked] = {}
        self._late: dict[str, Asked] = {}
        self._answered: set[str] = set()
        self._answered_before: set[str] = set()
        self._usable: list[tuple[str, Message]] = []
        self._failures: dict[str, str] = {}
        self._codes: dict[str, str] = {}
        self._unread: deque[Arrived] = deque()

    @property
    def pending(self) -> frozenset[str]:
        """The slots whose replies of this phase are still to come."""
        return frozenset(asked.slot for asked in self._pending.values())

    @property
    def complete(self) -> bool:
        """Whether no reply of this phase is still to come."""
        return not self._pending

    @property
    def wanted(self) -> list[str]:
        """The ids of the messages whose replies are wanted; those of earlier phases are told of when they come."""
        return [*self._pending, *self._late]

    @property
    def usable(self) -> list[tuple[str, Message]]:
        """Slot and reply of what can be aggregated, in slot order; after ``settle``."""
        return sorted(self._usable, key=lambda pair: self._places[pair[0]])

    def begin_phase(self, asked: Sequence[Asked], taken: Collection[str]) -> None:
        """Wait for the replies to ``asked``; ``taken`` are the ids of the messages that were really sent."""
        slots = sorted({each.slot for each in asked}, key=natural_key)
        self._places = {slot: place for place, slot in enumerate(slots)}
        self._usable, self._failures, self._codes = [], {}, {}
        self._answered_before, self._answered = self._answered, set()
        for each in asked:
            message_id = each.message.metadata.message_id if each.message is not None else ""
            if message_id in taken:
                self._pending[message_id] = each
            else:
                self._fail(each, of_refused_push(slot=each.slot, task=each.task, number=each.number))

    def take(self, replies: Sequence[Message]) -> bool:
        """Receive ``replies``; whether one of them was still waited for."""
        before, now, when = len(self._pending), time.monotonic(), datetime.now(UTC)
        for reply in replies:
            self._take(reply, now, when)
        if self._unread and now - self._unread[0].at > TOGETHER_S:
            self.settle()
        return len(self._pending) < before

    def settle(self) -> None:
        """Judge what has come, and put on disk what there is to report of it. Raises what the check raises, at last."""
        error: Exception | None = None
        with self._reporter.together() if self._unread else contextlib.nullcontext():
            while self._unread:
                arrived = self._unread.popleft()
                try:
                    (self._too_late if arrived.late else self._first)(arrived)
                except Exception as raised:
                    # What the others have measured is told all the same.
                    logger.error("the reply of %s could not be judged (%s)", arrived.asked.slot, type(raised).__name__)
                    error = error or raised
        if error is not None:
            raise error

    def abandon(self) -> None:
        """The phase ends in its middle: what the sites have measured is told, and nothing judged any more."""
        with self._reporter.together():
            while self._unread:
                arrived = self._unread.popleft()
                read = self._read(arrived)
                if not isinstance(read, Told):
                    self._store(arrived.asked, arrived.reply, read)

    def started_anew(self, slots: Collection[str]) -> None:
        """The tasks of ``slots`` went down with their SuperNodes: nothing more is awaited of them."""
        if not slots:
            return
        for message_id, asked in list(self._pending.items()):
            if asked.slot in slots:
                del self._pending[message_id]
                self._fail(asked, of_restart(slot=asked.slot, task=asked.task, number=asked.number))
                self._late[message_id] = replace(asked, message=None)

    def end_phase(self, task: Task, number: int, waited_s: float, stage: str | None = None) -> Phase:
        """What became of the phase. Who has not replied by now has failed; a later reply is told and dropped."""
        self.settle()
        with self._reporter.together():
            for message_id, asked in self._pending.items():
                self._fail(asked, of_silence(slot=asked.slot, task=task, number=number, waited_s=waited_s))
                self._late[message_id] = replace(asked, message=None)
        self._pending = {}
        if isinstance(self._check, Quarantine):
            self._check.forget()
        slots = tuple(self._places)
        failures = {slot: self._failures[slot] for slot in slots if slot in self._failures}
        return Phase(task, number, slots, dict(self.usable), failures, stage, dict(self._codes))

    # -- one reply ------------------------------------------------------------------------------------------------

    def _take(self, reply: Message, now: float, when: datetime) -> None:
        message_id = reply.metadata.reply_to_message_id
        asked = self._pending.pop(message_id, None)
        if asked is not None:
            self._answered.add(message_id)
            self._unread.append(Arrived(asked, reply, now, when, late=False))
        elif message_id in self._late:
            self._unread.append(Arrived(self._late.pop(message_id), reply, now, when, late=True))
        elif message_id in self._answered or message_id in self._answered_before:
            logger.warning("a second reply to the same message was dropped")
        else:
            self._reporter.failure(None, "a reply that answers none of this run's messages was dropped")

    def _read(self, arrived: Arrived) -> SiteReport | Told:
        """What the client says, or what to tell of one of whom nothing can be believed."""
        asked, reply = arrived.asked, arrived.reply
        reason = malformed(reply)
        if reason is not None:
            return of_rejection(reason, slot=asked.slot, number=asked.number)
        report = get_report(reply)
        return self._mismatch(asked, report) or report

    def _first(self, arrived: Arrived) -> None:
        asked, reply = arrived.asked, arrived.reply
        assert asked.message is not None
        slot, task, number = asked.slot, asked.task, asked.number
        report = self._read(arrived)
        if isinstance(report, Told):
            self._fail(asked, report)
            return
        clock = self._clocks.heard(slot, report.facts, arrived.took_s, arrived.when)
        self._store(asked, reply, report)
        if reply.has_error():
            self._fail(asked, of_error(reply.error, report, slot=slot, task=task, number=number))
            return
        reason = self._check(asked.message, reply, task)
        if reason is not None:
            self._fail(asked, of_rejection(reason, slot=slot, number=number))
            return
        as_whole(asked.message, reply)
        stamp_slot(reply.content, slot)
        self._usable.append((slot, reply))
        if task is not Task.VALIDATE:
            self._tell_result(arrived, report, clock)

    def _too_late(self, arrived: Arrived) -> None:
        asked, reply = arrived.asked, arrived.reply
        if reply.has_error() and reply.error.code in _NOTHING_NEW:
            return
        report = self._read(arrived)
        if isinstance(report, Told):
            told = report
        else:
            clock = self._clocks.heard(asked.slot, report.facts, arrived.took_s, arrived.when)
            self._store(asked, reply, report)
            if reply.has_error():
                told = of_error(reply.error, report, slot=asked.slot, task=asked.task, number=asked.number)
            else:
                told = of_delay(slot=asked.slot, task=asked.task, number=asked.number, took_s=arrived.took_s)
                if asked.task is not Task.VALIDATE:
                    # The hub shows a result that comes after its round was aggregated as late.
                    self._tell_result(arrived, report, clock)
        self._reporter.failure(asked.slot, told.text, global_round=told.round)

    def _mismatch(self, asked: Asked, report: SiteReport) -> Told | None:
        """What to tell when the client says it is somebody else: nothing else that it says is then stored."""
        if (report.claim is None and not report.also) or not self._roster.checks_claims:
            return None
        for claim in (report.claim, *report.also):
            text = mismatch(asked.slot, claim)
            if text is not None:
                return Told(text, text, asked.number or None, BAD_PEER_CONTEXT)
        return None

    def _store(self, asked: Asked, reply: Message, report: SiteReport) -> None:
        items, slot, number, task = report.items, asked.slot, asked.number, asked.task.value
        if reply.has_content() and not {SERIES_RECORD, ROWS_RECORD} & set(reply.content):
            # A ClientApp that is not ours: its metrics are all that it reports.
            for record in records_of(reply.content, MetricRecord):
                plain = plain_metrics(record)
                if plain is not None:
                    self._reporter.plain(slot, number, task, plain.heads, plain.values)
                else:
                    items = [*items, *metrics_by_grammar(record, slot=slot, round=number, task=task)]
        if items:
            # Each message has one reply, and no other copy of what is in it.
            self._reporter.from_site(slot, self._clocks.on_server_time(slot, items), once=True)
        for reason, count in report.refused.items():
            self._reporter.refused(asked.slot, count, reason, asked.number)
        if report.missing:
            self._reporter.missing(Missing(asked.slot, asked.task.value, asked.number, report.missing))

    def _tell_result(self, arrived: Arrived, report: SiteReport, clock: Ahead) -> None:
        asked = arrived.asked
        size = array_bytes(arrived.reply) if asked.task is Task.TRAIN else None
        self._reporting.lifecycle.client_result(
            asked.slot,
            asked.number,
            size,
            seconds=arrived.took_s,
            stage=asked.stage,
            facts=report.facts,
            clock=clock,
        )

    def _fail(self, asked: Asked, told: Told) -> None:
        self._failures[asked.slot], self._codes[asked.slot] = told.why, told.code
        self._reporter.failure(asked.slot, told.text, global_round=told.round)
