"""A delegating grid: any strategy's messages go to the job's sites only, and every reply is judged as it arrives."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar, runtime_checkable

from flwr.app import Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from flip_fl.flower.align import align
from flip_fl.flower.arrivals import TOGETHER_S, Arrivals, Asked
from flip_fl.flower.attribution import ABORTED_AT_SITE
from flip_fl.flower.consulted import Asking, answers_of
from flip_fl.flower.identity import in_order
from flip_fl.flower.phase import STOPPED_AT_HUB, Patience, Phase, Quorum, RoundFailed, RunStopped, judge
from flip_fl.flower.private import NodeInfo, Run
from flip_fl.flower.protocol import CONFIG, NUM_EXAMPLES, QUERY_END, SERVER_ROUND, TaskNote, with_task
from flip_fl.flower.quarantine import Quarantine, ReplyCheck, records_of
from flip_fl.flower.restarts import Restarts
from flip_fl.flower.roster import Roster
from flip_fl.flower.stay import Stay
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.session import Reporting
from flip_fl.values import Task

__all__ = ["FlipGrid", "Patience", "Phase", "Quorum", "RoundFailed", "RunStopped"]

logger = logging.getLogger("flip_fl.flower")

# A stop at the hub is obeyed within a second, however seldom the grid is asked for replies.
STOP_POLL_S = 0.25
# The hub says so in its answer to the very report of the abort, which leaves at once.
STOP_NEWS_S = 5.0
DISMISS_S = 5.0
# Beyond Flower's 12 hours a reply would be thrown away although it is still waited for.
TTL_MARGIN_S = 60.0
_TASKS = {MessageType.TRAIN: Task.TRAIN, MessageType.EVALUATE: Task.VALIDATE}

T = TypeVar("T")


@runtime_checkable
class Waits(Protocol):
    """A grid that knows when a reply may be there."""

    def wait(self, timeout_s: float) -> object:
        """Return when a reply may be there, or after ``timeout_s`` seconds."""


class FlipGrid(Grid):
    """``inner`` as a strategy should see it: only the job's sites, in slot order, and only usable replies.

    ``slots`` are the participants (empty: see ``Roster``). Each reply is attributed by the message that it answers,
    checked, and told at the hub when it arrives, or with those of the same moment; a phase ends with all replies, or
    after its time; a phase that the run cannot survive raises ``RoundFailed``. A stop at the hub raises ``RunStopped``
    within a second.

    ``check`` says why a reply cannot be aggregated (default: ``Quarantine(weighted_by)``). ``weighted_by`` is the
    metric by which the strategy weights. ``phase`` is what became of the last train or evaluate messages, ``roster``
    who the sites are.
    """

    def __init__(
        self,
        inner: Grid,
        reporting: Reporting | LocalReporting,
        *,
        slots: Sequence[str] = (),
        quorum: Quorum | None = None,
        patience: Patience | None = None,
        total_rounds: int = 0,
        check: ReplyCheck | None = None,
        weighted_by: str = NUM_EXAMPLES,
    ) -> None:
        self.phase: Phase | None = None
        self._inner = inner
        self._reporting = reporting
        self._quorum = quorum or Quorum()
        self._patience = patience or Patience()
        self._total_rounds = total_rounds
        self._weighted_by = weighted_by
        self.roster = Roster(inner, reporting.reporter, slots, self._quorum, self._patience, self._rest)
        self._arrivals = Arrivals(reporting, check or Quarantine(weighted_by), self.roster)
        self._stay = Stay(inner, self.roster, self._patience.stay_every_s)
        self._expected: tuple[Task, int] | None = None
        self._note = TaskNote()
        self._asking_since: float | None = None
        self._left_out_told: set[str] = set()

    # -- what the delegating strategy calls -----------------------------------------------------------------------

    def await_sites(self) -> list[str]:
        """The job's sites once they are connected, in slot order; see ``Roster.start``."""
        return self.roster.start()

    def expect(self, task: Task, number: int, note: TaskNote | None = None) -> None:
        """Say what the next messages are for: their task and round (from 1), and what else the sites are told."""
        self._expected, self._asking_since = (task, number), None
        self._note = note or TaskNote()

    def dismiss(self) -> None:
        """Tell the sites that the run is over, so that they remove what it has fetched; for ``DISMISS_S`` at the most.

        Whoever does not hear of it removes it when its next job starts.
        """
        with contextlib.suppress(Exception):
            nodes = self.roster.known
            messages = [
                Message(with_task(RecordDict(), TaskNote(slot)), node, QUERY_END) for node, slot in nodes.items()
            ]
            self._inner.send_and_receive(messages, timeout=DISMISS_S)

    def consult(
        self,
        messages: Sequence[Message],
        number: int,
        what: str,
        read: Callable[[str, RecordDict], T],
        *,
        least: int = 0,
    ) -> dict[str, T]:
        """What ``read`` makes of each site's reply to query ``messages`` of round ``number``, in slot order.

        A site that does not answer, or of whose reply ``read`` raises ``ValueError``, has failed as in training: the
        hub is told, and the run goes on without it where that may be and at least ``least`` others answer. ``what``
        is being done, in words. Raises ``RoundFailed`` and ``RunStopped``.
        """
        limit_s = self._patience.phase_timeout_s
        asked = {self.roster.slot_of(message.metadata.dst_node_id): message for message in messages}
        for slot, message in asked.items():
            message.content = with_task(message.content, TaskNote(slot, number, self._total_rounds))
            message.metadata.ttl = max(message.metadata.ttl, limit_s + TTL_MARGIN_S)
        taken, restarted, replies = self._ask(messages, limit_s)
        about = Asking(number, limit_s, self.roster.checks_claims)
        found = answers_of(asked, taken, restarted, replies, read, about)
        for slot, told in found.missing.items():
            self._reporting.reporter.failure(slot, told.text, global_round=told.round)
        failures = {slot: told.why for slot, told in found.missing.items()}
        given = {slot: asked[slot] for slot in found.given}
        self._judge(Phase(Task.TRAIN, number, tuple(in_order(asked)), given, failures, what=what), least)
        return found.given

    # -- Flower's Grid --------------------------------------------------------------------------------------------

    @property
    def run(self) -> Run:
        return self._inner.run

    def set_run(self, run: Run) -> None:
        self._inner.set_run(run)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> list[NodeInfo]:
        """The connected sites' nodes in slot order; waits for the quorum.

        Raises ``RoundFailed`` when it does not come in time, and when a strategy asks for longer than that without
        ever sending anything: Flower's own wait for more nodes than there are has no end.
        """
        self._obey_stop()
        now = time.monotonic()
        if self._asking_since is None:
            self._asking_since = now
        waited = now - self._asking_since
        nodes = self.roster.nodes()
        # Only the strategy's own waiting counts: the roster's has an end of its own.
        self._asking_since += time.monotonic() - now
        if waited > self._patience.start_timeout_s:
            there = [str(node.name) or self.roster.slot_of(int(node.node_id)) for node in nodes]
            missing = [slot for slot in self.roster.slots if slot not in there]
            raise RoundFailed(
                f"the strategy waited {waited:.0f} s for more sites than the {len(there)} that are connected"
                f" ({', '.join(there) or 'none'}); of the job's sites {', '.join(missing) or 'none'} is missing:"
                " check its min_available_nodes and fractions"
            )
        return nodes

    def get_node_ids(self) -> list[int]:
        """The ids of ``get_nodes``."""
        return [int(node.node_id) for node in self.get_nodes()]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send to the job's sites and nothing more: what comes is neither checked nor told. Raises ``RoundFailed``."""
        messages = list(messages)
        for message in messages:
            self.roster.slot_of(message.metadata.dst_node_id)
        self._asking_since = None
        return self._inner.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to what ``push_messages`` sent, as they are."""
        self._obey_stop()
        return self._inner.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """The usable replies in slot order, after at most ``timeout`` seconds or the phase's own limit.

        Metrics that not all replies have are left out of what is returned, not of ``phase``. Query messages are passed
        on and their replies returned as they are. Raises ``RoundFailed`` and ``RunStopped``.
        """
        messages = list(messages)
        kind = messages[0].metadata.message_type.partition(".")[0] if messages else ""
        expected, self._expected = self._expected, None
        if messages and kind not in _TASKS:
            return self._ask(messages, self._limit(timeout))[2]
        task, number = expected or self._guess(kind, messages)
        if not messages:
            self.phase = Phase(task, number)
            self._judge(self.phase)
            return []
        limit_s = self._limit(timeout)
        self._send(messages, task, number, limit_s)
        self._receive(limit_s)
        self.phase = self._arrivals.end_phase(task, number, limit_s, self._note.stage or None)
        if ABORTED_AT_SITE in self.phase.failures.values():
            # Most likely the whole run was stopped, and the sites heard of it before the server did.
            self._rest(STOP_NEWS_S)
        self._judge(self.phase)
        if task is Task.EVALUATE:
            return [reply for _, reply in self._arrivals.usable]
        return self._for_strategy(task, number)

    # -- a phase --------------------------------------------------------------------------------------------------

    def _send(self, messages: Sequence[Message], task: Task, number: int, limit_s: float) -> None:
        slots = [self.roster.slot_of(message.metadata.dst_node_id) for message in messages]
        for message, slot in zip(messages, slots, strict=True):
            message.content = with_task(message.content, self._note.at(slot, number, self._total_rounds))
            message.metadata.ttl = max(message.metadata.ttl, limit_s + TTL_MARGIN_S)
        self._asking_since = None
        self._obey_stop()
        now = time.monotonic()
        taken = list(self._inner.push_messages(messages))
        # Of a message that it did not take a SuperLink returns None, or no id.
        ids = {message_id for message_id in taken if message_id}
        stage = self._note.stage or self._note.model or None
        asked = [Asked(slot, message, task, number, now, stage) for message, slot in zip(messages, slots, strict=True)]
        self._arrivals.begin_phase(asked, ids)

    def _receive(self, limit_s: float) -> None:
        try:
            self._gather(limit_s)
            self._arrivals.settle()
        except BaseException:
            # A stop must not wait until all that is there is judged, nor become what a check raises.
            self._arrivals.abandon()
            raise

    def _gather(self, limit_s: float) -> None:
        deadline = time.monotonic() + limit_s
        restarts = Restarts(self.roster)
        while not self._arrivals.complete:
            self._obey_stop()
            anew = restarts.seen()
            # Before the look at the replies: what has come in time is taken, however long this process was held up.
            now = time.monotonic()
            useful = self._arrivals.take(list(self._inner.pull_messages(self._arrivals.wanted)))
            # What they had done before has just been taken.
            self._arrivals.started_anew(anew)
            if self._arrivals.complete or now >= deadline:
                return
            if not useful or time.monotonic() - now > TOGETHER_S:
                # Nothing else comes at once: a large reply took its time, and so may the next one.
                self._arrivals.settle()
            if not useful:
                self._stay.tell(self._arrivals.pending)
                self._await_reply(min(self._patience.poll_s, deadline - now))

    def _judge(self, phase: Phase, least: int = 0) -> None:
        # Of the job's sites, not of those that the strategy asked: what it asks is part of what is judged.
        note = judge(phase, self._quorum, len(self.roster.slots) or len(phase.asked), least)
        if note is not None:
            logger.warning("going on without: %s", note)

    def _ask(self, messages: Sequence[Message], limit_s: float) -> tuple[set[str], set[str], list[Message]]:
        """The ids of the messages that were taken, the slots that were started anew meanwhile, and the replies."""
        self._obey_stop()
        restarts = Restarts(self.roster)
        taken = {message_id for message_id in self.push_messages(messages) if message_id}
        envelopes = [message.metadata for message in messages if message.metadata.message_id in taken]
        pending = {each.message_id: self.roster.slot_of(each.dst_node_id) for each in envelopes}
        deadline = time.monotonic() + limit_s
        restarted: set[str] = set()
        replies: list[Message] = []
        while True:
            anew, left = restarts.seen(), deadline - time.monotonic()
            for reply in self.pull_messages(list(pending)):
                if pending.pop(reply.metadata.reply_to_message_id, None) is not None:
                    replies.append(reply)
            restarted |= anew & set(pending.values())
            pending = {message_id: slot for message_id, slot in pending.items() if slot not in anew}
            if not pending or left <= 0:
                return taken, restarted, replies
            self._await_reply(min(self._patience.poll_s, left))

    def _for_strategy(self, task: Task, number: int) -> list[Message]:
        usable = self._arrivals.usable
        aligned = align(usable)
        if aligned.left_out and aligned.note not in self._left_out_told:
            self._left_out_told.add(aligned.note)
            text = f"left out of the aggregate from {task.value}, round {number}, because the sites differ in them: "
            self._reporting.reporter.log(text + aligned.note, global_round=number or None)
        if task is not Task.TRAIN and not any(_weight(reply, self._weighted_by) for _, reply in usable):
            # Flower's strategies divide by the sum of the weights.
            logger.warning("no site has examples in %s, round %d: nothing to aggregate", task.value, number)
            return []
        return aligned.replies

    def _guess(self, kind: str, messages: Sequence[Message]) -> tuple[Task, int]:
        """Task and round of messages that nobody announced: by their type, and by what strategies write into them."""
        before = self.phase.round if self.phase is not None else 0
        task = _TASKS.get(kind, Task.TRAIN)
        record = messages[0].content.config_records.get(CONFIG) if messages else None
        number = record.get(SERVER_ROUND) if record is not None else None
        if isinstance(number, int) and number > 0:
            return task, number
        return task, before + 1 if task is Task.TRAIN else max(before, 1)

    def _limit(self, timeout: float | None) -> float:
        longest = self._patience.phase_timeout_s
        return longest if timeout is None else min(timeout, longest)

    # -- waiting --------------------------------------------------------------------------------------------------

    def _obey_stop(self) -> None:
        if self._reporting.stop_requested:
            # Before anything else ends: the first cause in time is the run's end.
            self._reporting.lifecycle.stop(STOPPED_AT_HUB)
            raise RunStopped(STOPPED_AT_HUB)

    def _rest(self, seconds: float) -> None:
        """Wait ``seconds``; 0 only looks for a stop."""
        end = time.monotonic() + seconds
        self._obey_stop()
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(STOP_POLL_S, left))
            self._obey_stop()

    def _await_reply(self, seconds: float) -> None:
        if isinstance(self._inner, Waits):
            self._inner.wait(min(STOP_POLL_S, seconds))
            self._obey_stop()
        else:
            self._rest(seconds)


def _weight(reply: Message, name: str) -> bool:
    return any(bool(record.get(name, 0)) for record in records_of(reply.content, MetricRecord))
