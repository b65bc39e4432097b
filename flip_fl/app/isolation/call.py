"""The neutral form in a process of its own: hands a task to the guest, and judges what it says.

The guest is the app's: whatever it says may have been made up. Numbers and names pass the egress rules here, a
traceback is built here from files that really are there, arrays are read as plain bytes, and data is asked for here, of
the job's own project and cohort alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flip_fl.app.calls import Made
from flip_fl.app.faults import BadFrame, ScriptFailed, TaskAborted
from flip_fl.app.isolation import handover, plain_values
from flip_fl.app.isolation.broker import Broker
from flip_fl.app.isolation.channel import Said
from flip_fl.app.isolation.process import GuestProcess
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.raised import heard
from flip_fl.app.redact import redacted_told
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.app.tensors import Arrays
from flip_fl.values import Task

LOOK_S = 0.1
# How long a task that was told to stop may take to do so.
STOP_S = 20.0
CLOSE_S = 2.0
# Beyond a model's own size: what an app may send that is no copy of it.
SPARE_BYTES = 64 << 20
MAX_KEPT = 2
MAX_LINES = 1_000_000_000

T = TypeVar("T")


class IsolatedCall:
    """Runs the functions of the app of one session behind ``level``; a ``Call``. ``close`` ends the app's process.

    One process serves all tasks of a job; after its end, whatever that was, the next task has a new one.
    """

    def __init__(self, level: Level, wanted: Isolation, environment: Mapping[str, str] | None = None) -> None:
        self.level = level
        self._wanted = wanted
        self._environment = dict(environment or {})
        self._guest: GuestProcess | None = None
        self._number = 0

    def __call__(self, spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger) -> Made:
        """One task. Raises ``ScriptFailed`` for whatever ends it, ``TaskAborted`` when the run is stopped."""
        limit = SPARE_BYTES + 4 * sum(array.nbytes for array in arrays.values())
        return self._done(
            spec,
            session,
            ledger,
            lambda guest: guest.task(self._number, spec, arrays, session),
            lambda said: _made(said, spec, session, limit),
        )

    def work(
        self,
        module: str,
        facts: Mapping[str, Any],
        blobs: Mapping[str, bytes],
        spec: SiteSpec,
        session: Session,
        ledger: Ledger,
    ) -> tuple[dict[str, Any], dict[str, bytes]]:
        """What ``work`` of the house's ``module`` gives for ``facts`` and ``blobs``, in the app's process.

        Raises as a call does.
        """
        limit = SPARE_BYTES + 4 * sum(map(len, blobs.values()))
        return self._done(
            spec,
            session,
            ledger,
            lambda guest: guest.work(self._number, module, facts, blobs, spec),
            lambda said: _worked(said, limit),
        )

    def close(self, grace_s: float = CLOSE_S) -> None:
        """The job is over: the app's process, and all that it started, end."""
        if self._guest is not None:
            self._guest.close(grace_s)
            self._guest = None

    def _running(self, session: Session, spec: SiteSpec) -> GuestProcess:
        if self._guest is None:
            self._guest = GuestProcess(self.level, self._wanted, session, spec, self._environment)
        return self._guest

    def _done(
        self,
        spec: SiteSpec,
        session: Session,
        ledger: Ledger,
        ask: Callable[[GuestProcess], None],
        read: Callable[[Said], T],
    ) -> T:
        guest = self._running(session, spec)
        self._number += 1
        try:
            ask(guest)
            return self._await(guest, spec, session, ledger, read)
        except _OfTheApp as problem:
            raise problem.failure from None
        except BaseException:
            # It may still be at work on what nobody waits for.
            self.close(0.0)
            raise

    def _await(
        self, guest: GuestProcess, spec: SiteSpec, session: Session, ledger: Ledger, read: Callable[[Said], T]
    ) -> T:
        broker = Broker(guest.channel, guest.grant, spec, session, ledger)
        ends = time.monotonic() + 60 * self._wanted.task_minutes if self._wanted.task_minutes else float("inf")
        stops = float("inf")
        try:
            while True:
                said = guest.next(LOOK_S)
                now = time.monotonic()
                if session.aborted() and stops == float("inf"):
                    stops = now + STOP_S
                    guest.stop()
                if now > stops:
                    raise TaskAborted
                if now > ends:
                    raise _because(f"{spec.where()} took longer than the {self._wanted.task_minutes:g} minutes that "
                                   "this site lets a task take")  # fmt: skip
                if said is None:
                    continue
                if isinstance(said, str):
                    if session.aborted():
                        raise TaskAborted
                    raise _because(f"the app's process ended in {spec.where()}: {said}")
                with contextlib.closing(said):
                    made = self._take(said, spec, session, ledger, broker, read)
                if made is not None:
                    return made
        finally:
            broker.close()

    def _take(
        self,
        said: Said,
        spec: SiteSpec,
        session: Session,
        ledger: Ledger,
        broker: Broker,
        read: Callable[[Said], T],
    ) -> T | None:
        head = said.head
        kind = head.get("kind")
        try:
            if kind == "log":
                _log(head, ledger)
            elif kind in ("ask", "enough"):
                broker.take(head)
            elif head.get("number") != self._number:
                return None
            elif kind == "aborted":
                raise _OfTheApp(TaskAborted())
            elif kind == "failed":
                session.tell_withheld(_lines(head), spec, ledger)
                raise _OfTheApp(self._failure(head, session, broker))
            elif kind == "result":
                session.tell_withheld(_lines(head), spec, ledger)
                return read(said)
        except (BadFrame, ValueError, KeyError, TypeError) as problem:
            words = str(problem) if isinstance(problem, BadFrame | ValueError) else type(problem).__name__
            raise _because(f"what the app's process said in {spec.where()} cannot be read: {words}") from None
        return None

    def _failure(self, head: Mapping[str, Any], session: Session, broker: Broker) -> ScriptFailed:
        chain = heard(head.get("raised"))
        kind, text = redacted_told(chain, session.app_dir, broker.has_said)
        failure = ScriptFailed(kind, text)
        failure.chain = chain
        return failure


class _OfTheApp(Exception):
    """The task has ended as the app wanted it to, or did not: its process goes on."""

    def __init__(self, failure: BaseException) -> None:
        super().__init__()
        self.failure = failure


def _because(text: str) -> ScriptFailed:
    return ScriptFailed.because(text)


def _lines(head: Mapping[str, Any]) -> int:
    printed = head.get("printed")
    return min(printed, MAX_LINES) if isinstance(printed, int) and printed > 0 else 0


def _log(head: Mapping[str, Any], ledger: Ledger) -> None:
    """A number that the app has logged; what is none is refused, and counted, where every number is judged."""
    label = head.get("label") if isinstance(head.get("label"), str) else plain_values.Other()
    x_label = head.get("x_label") if isinstance(head.get("x_label"), str) else plain_values.Other()
    ledger.metric(
        label,
        _number(head.get("value")),
        _number(head.get("x_value")) if head.get("has_x") else None,
        x_label if head.get("has_x_label") else None,
    )


def _number(told: Any) -> Any:
    try:
        return float(told)
    except (TypeError, ValueError):
        return plain_values.Other()


def _made(said: Said, spec: SiteSpec, session: Session, limit: int) -> Made:
    kept = said.head.get("kept")
    if not isinstance(kept, list) or len(kept) > MAX_KEPT or not all(isinstance(key, str) for key in kept):
        raise ValueError("what it keeps is not told as it must be")
    expected = len(kept) + (spec.task is Task.TRAIN)
    if len(said.descriptors) != expected:
        raise ValueError(f"it hands over {len(said.descriptors)} models, not {expected}")
    arrays: Arrays = handover.take(said.descriptors.pop(0), limit) if spec.task is Task.TRAIN else {}
    own = session.local.key(spec)
    for key in kept:
        part = handover.take(said.descriptors.pop(0), limit)
        # The key is the site's; one that an app has made up is no file's name.
        if key == own:
            session.local.keep(own, part)
    return Made(plain_values.heard(said.head.get("values")), arrays, session.config.params_type)


def _worked(said: Said, limit: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    facts = said.head.get("facts")
    if not isinstance(facts, dict) or len(said.descriptors) != 1:
        raise ValueError("what it has done is not told as it must be")
    return facts, handover.to_bytes(handover.take(said.descriptors.pop(0), limit))
