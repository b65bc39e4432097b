"""What came of records that were handed to the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.records import Record
from flip_fl.reporting.store import Dead


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the hub took nothing more: ``text`` for people and ``doctor``, without anything that was sent."""

    text: str
    retry_after_s: float | None = None
    unauthorised: bool = False


@dataclass(slots=True)
class Feedback:
    """What became of the records: ``acked`` at the hub, ``dead`` for good, the others stay.

    ``divided``: records of several reports that must be sent one by one.
    ``alive``: the hub answered at all; ``stop``: it says that the model was stopped; ``problem``: do not go on now.
    """

    acked: list[bytes] = field(default_factory=list)
    dead: list[Dead] = field(default_factory=list)
    divided: list[bytes] = field(default_factory=list)
    alive: bool = False
    stop: bool = False
    problem: Problem | None = None


def set_unreadable_aside(records: Sequence[Record], feedback: Feedback) -> list[Record]:
    """The records that are JSON; a disk that changed one must not make the hub refuse all that travel with it."""
    sound = []
    for record in records:
        if record.is_readable():
            sound.append(record)
        elif record.reports > 1:
            feedback.divided.append(record.id)
        else:
            feedback.dead.append(Dead(record.id, LossReason.INVALID, "unreadable"))
    return sound
