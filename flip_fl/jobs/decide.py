"""What a watchdog does about a run, from what engine and hub say of it. Decisions only: nothing here asks or writes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from flip_fl.values import ModelStatus

# How a reason begins that was not the run's own word but its engine's loss. Only an ERROR with such a reason may be
# put right afterwards: one that the run has told itself is the truth, whatever the engine says later.
LOSS_PREFIX = "ended by the engine"
NOTICED_BY = "noticed by flip-fl job watch"

GRACE_S = 20.0
# Times the grace: how long an engine may take to start a run, or to let go of one that has told its end.
WINDING_DOWN = 3
UNREACHABLE_AFTER_S = 300.0
OUTBOX_PATIENCE_S = 60.0
EVERY_S = 15.0
TIMEOUT_S = 7 * 86_400.0


class EngineState(StrEnum):
    """A run as its engine tells it. The last four are no answer about the run itself."""

    WAITING = "waiting"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    STOPPED = "stopped"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    UNKNOWN = "unknown"

    @property
    def is_final(self) -> bool:
        """True when the engine has ended the run; it never goes on after that."""
        return self in (EngineState.COMPLETED, EngineState.FAILED, EngineState.STOPPED)

    @property
    def is_known(self) -> bool:
        """True when the engine told of the run at all."""
        return self.is_final or self in (EngineState.WAITING, EngineState.RUNNING)


@dataclass(frozen=True)
class EngineRun:
    """One look at a run: its state, and the engine's words about it, without a value of any row."""

    state: EngineState
    details: str = ""


class EngineRuns(Protocol):
    """Where the runs of one engine can be looked up. ``engine`` and ``server`` are names for people, ``connection`` is
    the engine's own name of the way there."""

    @property
    def engine(self) -> str: ...

    @property
    def server(self) -> str: ...

    @property
    def connection(self) -> str: ...

    def look(self, run: str) -> EngineRun:
        """The run now. Bounded in time; an engine that does not answer is ``UNREACHABLE``, never an exception."""
        ...


class OutboxState(StrEnum):
    """The run's outbox on this machine: ``CLEAR`` (nothing left in it, or none here), else why something is left."""

    CLEAR = "clear"
    LIVE = "live"
    LEFT = "left"


@dataclass(frozen=True)
class HubState:
    """The model at the hub; ``loss``: its ERROR has the reason of a lost engine."""

    status: ModelStatus
    loss: bool = False


@dataclass(frozen=True)
class Limits:
    """Seconds: ``grace_s`` after the engine's end for the run's own last reports, ``unreachable_after_s`` without an
    answer of the engine before that is the run's end, ``outbox_s`` more while its outbox is not empty."""

    grace_s: float = GRACE_S
    unreachable_after_s: float = UNREACHABLE_AFTER_S
    outbox_s: float = OUTBOX_PATIENCE_S


@dataclass(frozen=True)
class Situation:
    """All that a decision rests on. ``hub`` is None while it gives no answer, ``engine`` while it was not asked,
    ``outbox`` while nobody has looked at it. ``engine_s`` and ``hub_s`` are the seconds since engine and hub were first
    seen as they are now (of the engine: final, not to be reached, ...); ``known``: the engine has told of this run."""

    engine: EngineRun | None
    hub: HubState | None
    outbox: OutboxState | None = None
    engine_s: float = 0.0
    hub_s: float = 0.0
    known: bool = True


@dataclass(frozen=True)
class Wait:
    """Look again later; ``awaited`` is who or what, in words."""

    awaited: str


@dataclass(frozen=True)
class Deliver:
    """Send what the run has left in its outbox, then decide again."""


@dataclass(frozen=True)
class Write:
    """Write this end to the hub."""

    status: ModelStatus
    reason: str


@dataclass(frozen=True)
class Finish:
    """The hub knows the end. ``note`` is what a person should know beside it."""

    note: str | None = None


@dataclass(frozen=True)
class Refuse:
    """What was asked for cannot be watched: the engine does not know the run, or does not let us in."""

    unknown: bool
    problem: str


Action = Wait | Deliver | Write | Finish | Refuse


def decide(seen: Situation, limits: Limits, names: EngineRuns) -> Action:
    """The next step. Pure: the same situation always gives the same step.

    A hub without an answer is waited for, whatever the engine says: nothing could be written. A model that has ended
    there, while the engine still runs it, is looked at again for a while. It stays as it is, but for an ERROR for a
    lost engine when the engine knows that somebody stopped the run.
    """
    if seen.hub is None:
        return Wait("an answer of the hub")
    if seen.hub.status.is_terminal:
        return _ended(seen, seen.hub, limits, names)
    engine = seen.engine
    if engine is None:
        return Wait(f"an answer of {names.server}")
    if not seen.known and engine.state in (EngineState.UNKNOWN, EngineState.REFUSED):
        return Refuse(engine.state is EngineState.UNKNOWN, engine.details)
    end = _end(engine, limits, names)
    if end is None:
        return Wait(f"the end of the run at {names.engine}")
    limit_s, write = end
    if seen.engine_s < limit_s:
        awaited = f"an answer of {names.server}" if not engine.state.is_known else "the run's own last report"
        return Wait(awaited)
    if seen.outbox is None:
        return Deliver()
    if seen.outbox is not OutboxState.CLEAR and seen.engine_s < limit_s + limits.outbox_s:
        # Its own word is worth more than what is seen from outside, and it is on its way.
        live = seen.outbox is OutboxState.LIVE
        return Wait("the process that still reports for the run" if live else "the delivery of the run's own reports")
    return write


def _ended(seen: Situation, hub: HubState, limits: Limits, names: EngineRuns) -> Action:
    engine = seen.engine
    if engine is None:
        return Finish()
    going_on = engine.state in (EngineState.WAITING, EngineState.RUNNING)
    if going_on and seen.hub_s < WINDING_DOWN * limits.grace_s:
        # It may be the end of an earlier run of the model: this one has not begun to report.
        return Wait(f"how the run ended at {names.engine}")
    if hub.status is not ModelStatus.ERROR:
        return Finish()
    stopped = engine.state is EngineState.STOPPED
    if stopped and hub.loss:
        return Write(ModelStatus.STOPPED, _stopped(names))
    if stopped:
        return Finish(
            f"{names.engine} says that the run was stopped, but the run itself has told the hub why it failed: "
            "left as it is"
        )
    return Finish()


def _end(engine: EngineRun, limits: Limits, names: EngineRuns) -> tuple[float, Write] | None:
    """What to write if nothing better comes, and after how many seconds; None while the run goes on."""
    told = f" ({engine.details})" if engine.details else ""
    match engine.state:
        case EngineState.WAITING | EngineState.RUNNING:
            return None
        case EngineState.STOPPED:
            return limits.grace_s, Write(ModelStatus.STOPPED, _stopped(names))
        case EngineState.FAILED:
            why = f"{names.engine} says that the run failed{told}"
        case EngineState.COMPLETED:
            why = f"{names.engine} says that the run is complete, but the run has not told how it ended"
        case EngineState.UNKNOWN:
            why = f"{names.server} was started anew and no longer knows the run"
        case EngineState.UNREACHABLE | EngineState.REFUSED:
            why = f"{names.server} gave no answer for {limits.unreachable_after_s:.0f} s{told}"
            return limits.unreachable_after_s, _error(why)
    return limits.grace_s, _error(why)


def _error(why: str) -> Write:
    return Write(ModelStatus.ERROR, f"{LOSS_PREFIX}: {why}; {NOTICED_BY}")


def _stopped(names: EngineRuns) -> str:
    return f"stopped at {names.engine}; {NOTICED_BY}"
