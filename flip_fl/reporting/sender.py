"""The sender: one daemon thread that takes from the outbox, hands to the hub, and settles what came of it."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from uuid import UUID

from flip_fl.reporting.backoff import MAX_WAIT_S, Backoff
from flip_fl.reporting.feedback import Feedback, Problem
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import Lane, Record
from flip_fl.reporting.transmit import Transmitter
from flip_fl.wire import MAX_BATCH_ITEMS

logger = logging.getLogger("flip_fl.reporting")

FLUSH_S = 1.0
HEARTBEAT_S = 10.0
# With the longest wait between attempts: an outage is over for us 50 s after it is over.
REQUEST_TIMEOUT_S = 20.0
HOLD_S = 60.0
LAST_SECOND_S = 1.0
# What `close` grants a hub that is known to be down: a long end of the run would not bring it back.
OUTAGE_PATIENCE_S = 1.0
SLOW_ANSWER_S = 3.0
CLOSING_WAIT_S = 0.25
LOCK_RETRY_S = 1.0
REPEAT_LOG_S = 600.0
LOSS_REPORT_S = 30.0


@dataclass(frozen=True)
class Pace:
    """The sender's times in seconds; tests make them short."""

    flush_s: float = FLUSH_S
    heartbeat_s: float = HEARTBEAT_S
    request_timeout_s: float = REQUEST_TIMEOUT_S
    hold_s: float = HOLD_S
    outage_patience_s: float = OUTAGE_PATIENCE_S


class Sender:
    """Sends one outbox to one hub until it is closed.

    ``start`` and ``close`` belong to the thread that made it, everything else to the sender's own thread; the
    properties may be read by anybody. It owns ``hub``. In a forked child it does nothing: the parent sends.
    """

    def __init__(
        self,
        outbox: Outbox,
        hub: HubClient,
        model_id: UUID,
        *,
        pace: Pace | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        self._outbox = outbox
        self._transmitter = Transmitter(hub, model_id, outbox.settle_deferred)
        self._pace = pace or Pace()
        self._backoff = backoff or Backoff()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name="flip-fl-sender", daemon=True)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._latest = float("-inf")
        self._request_since: float | None = None
        self._last_contact = time.monotonic()
        self._held_since: float | None = None
        self._down_since: float | None = None
        # What an earlier sender wrote into the file is not known here.
        self._paused: str | None = "unknown"
        self._logged_at = float("-inf")
        self._told_at = float("-inf")
        self.stop_requested = False
        self.problem: Problem | None = None

    @property
    def answered(self) -> bool:
        """Whether the hub takes what it is sent, as far as is known."""
        return self._down_since is None

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Send what can be sent within ``timeout_s``, then stop; True if nothing is left.

        A hub that is known to be down gets 1 s, and the rest as soon as it takes reports again. A request that hangs
        is left to its thread: it dies with the process.
        """
        if os.getpid() != self._pid:
            return False
        now = time.monotonic()
        since = self._request_since
        healthy = self.answered and (since is None or now - since < SLOW_ANSWER_S)
        patience = timeout_s if healthy else min(timeout_s, self._pace.outage_patience_s)
        self._deadline, self._latest = now + patience, now + timeout_s
        self._closing.set()
        self._outbox.urgent.set()
        while self._thread.is_alive() and (left := self._deadline - time.monotonic()) > 0:
            self._thread.join(left)
        return self._outbox.is_empty()

    def drain(self, timeout_s: float, stop: threading.Event | None = None) -> Problem | None:
        """Without a thread: send until the outbox is empty, the hub takes no more, ``stop`` is set, or time is up.

        The caller holds the outbox's sender lock. Returns the hub's problem, if that was the end of it.
        """
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        try:
            while not self._outbox.is_empty() and time.monotonic() < self._deadline and not (stop and stop.is_set()):
                wait = self._step()
                if self.problem is not None:
                    return self.problem
                time.sleep(min(wait, CLOSING_WAIT_S))
            return None
        finally:
            self._outbox.settle_deferred()
            self._transmitter.close()

    # -- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._outbox.acquire_sender():
                # Another process sends from this file, our reports included.
                if self._closing.wait(LOCK_RETRY_S):
                    return
            while not self._finished():
                self._wait(self._safe_step())
        finally:
            self._outbox.settle_deferred()
            self._outbox.release_sender()
            self._transmitter.close()

    def _finished(self) -> bool:
        if not self._closing.is_set():
            return False
        return time.monotonic() >= self._deadline or self._outbox.is_empty()

    def _safe_step(self) -> float:
        try:
            return self._step()
        except Exception as error:
            # A fault of ours must cost a wait, never the thread. The text could hold what was to be sent.
            logger.error("the sender failed (%s) and goes on", type(error).__name__)
            return self._backoff.failed()

    def _wait(self, seconds: float) -> None:
        if self._closing.is_set():
            time.sleep(max(0.0, min(seconds, CLOSING_WAIT_S, self._deadline - time.monotonic())))
        elif self.problem is None and seconds > 0:
            self._outbox.urgent.wait(seconds)
        else:
            self._closing.wait(seconds)

    def _step(self) -> float:
        """Collect, transmit, feed back, once; return the seconds to wait before the next time."""
        self._outbox.urgent.clear()
        self._outbox.checkpoint()
        records = self._collect()
        if not records:
            return 0.0 if self._outbox.settle_deferred() else self._idle()
        packed = [record.id for record in records if record.packed] if self._transmitter.unpacks else []
        if packed and self._outbox.unfold(packed):
            # Nothing is sent now: what stands behind them must not overtake them.
            return 0.0
        marked = [record for record in records if self._transmitter.needs_mark(record) and not record.attempted]
        for record in marked:
            self._outbox.mark_attempted(record.id, True)
        feedback = self._request(records)
        self._settle(records, feedback)
        divided = bool(feedback.divided) and self._outbox.unfold(feedback.divided)
        settled = {*feedback.acked, *(corpse.id for corpse in feedback.dead)}
        for record in marked:
            if record.id not in settled:
                self._outbox.mark_attempted(record.id, False)
        if feedback.dead:
            logger.warning("the hub refused %d reports; they are set aside: flip-fl doctor", len(feedback.dead))
        wait = self._digest(feedback)
        if feedback.problem is not None:
            return wait
        more = self._outbox.more or self._transmitter.single or self._closing.is_set() or divided
        return 0.0 if more or self._outbox.depth()[Lane.STATUS] else self._pace.flush_s

    def _settle(self, records: list[Record], feedback: Feedback) -> None:
        self._outbox.settle_deferred()
        if self._outbox.more and len(feedback.acked) == len(records) and not self._transmitter.single:
            self._outbox.defer(feedback.acked)
        else:
            self._outbox.settle(feedback.acked, feedback.dead)

    def _collect(self) -> list[Record]:
        limit = 1 if self._transmitter.single else MAX_BATCH_ITEMS
        records = self._outbox.collect(limit, self._transmitter.max_bytes, release=self._release())
        if self.problem is None and self._tell_losses(records):
            records = self._outbox.collect(limit, self._transmitter.max_bytes, release=self._release())
        return records

    def _tell_losses(self, records: list[Record]) -> bool:
        """Losses are told when there is a pause, now and then, and in any case before the run's end is told."""
        ending = any(record.terminal for record in records)
        now = time.monotonic()
        if not ending and (records or now - self._told_at < LOSS_REPORT_S):
            return False
        told = self._outbox.report_losses()
        self._told_at = now if told else self._told_at
        return told

    def _release(self) -> bool:
        """Whether a held terminal status may overtake the rest: it waited long enough, or this is the last second."""
        if not self._outbox.holds_terminal():
            self._held_since = None
            return False
        now = time.monotonic()
        self._held_since = now if self._held_since is None else self._held_since
        last_second = self._closing.is_set() and self._deadline - now <= LAST_SECOND_S
        return last_second or now - self._held_since >= self._pace.hold_s

    def _idle(self) -> float:
        if not self._transmitter.single and time.monotonic() - self._last_contact >= self._pace.heartbeat_s:
            return self._digest(self._request([]))
        return self._pace.flush_s

    def _request(self, records: list[Record]) -> Feedback:
        timeout = self._pace.request_timeout_s
        if self._closing.is_set():
            left = self._deadline - time.monotonic()
            # The last second belongs to a terminal status, so that the end is told even of a run with a backlog.
            timeout = min(timeout, max(0.1, left - LAST_SECOND_S if left > 2 * LAST_SECOND_S else left))
        self._request_since = time.monotonic()
        try:
            return self._transmitter.send(records, timeout) if records else self._transmitter.ping(timeout)
        finally:
            self._request_since = None
            self._last_contact = time.monotonic()

    def _digest(self, feedback: Feedback) -> float:
        self.stop_requested = self.stop_requested or feedback.stop
        self.problem = feedback.problem
        if feedback.problem is None:
            self._recovered()
            return self._pace.flush_s
        problem = feedback.problem
        now = time.monotonic()
        self._down_since = now if self._down_since is None else self._down_since
        paused = problem.text if problem.unauthorised else None
        if paused is not None and paused != self._paused:
            self._logged_at = now
            logger.error("reporting is paused, the hub does not let us in: %s (flip-fl doctor --keys)", paused)
        elif now - self._logged_at >= REPEAT_LOG_S:
            self._logged_at = now
            logger.warning("the hub takes no reports, they wait in the outbox: %s", problem.text)
        self._paused = paused
        self._outbox.note(last_error=problem.text, last_error_ms=str(time.time_ns() // 1_000_000), paused=paused)
        if problem.unauthorised and self._closing.is_set():
            # Before this process ends nobody gives it another key: whoever asks again and again is locked out.
            self._deadline = now
        wait = self._backoff.failed(problem.retry_after_s)
        return max(wait, MAX_WAIT_S / 2) if problem.unauthorised else wait

    def _recovered(self) -> None:
        self._backoff.succeeded()
        self._deadline = max(self._deadline, self._latest)
        if self._down_since is not None:
            outage = time.monotonic() - self._down_since
            logger.info("the hub takes reports again after %.0f s", outage)
            self._down_since, self._logged_at = None, float("-inf")
        if self._paused is not None:
            self._paused = None
            self._outbox.note(paused=None)
