"""What can be wrong with a hub, as words and as values; ``faults`` makes it happen."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from enum import StrEnum

# What a person may rehearse; more can be said in a test.
FAULTS = (
    "hub-slow=2s",
    "hub-hung",
    "hub-away",
    "hub-black-hole",
    "hub-500",
    "hub-503",
    "hub-429",
    "hub-429=30s",
    "hub-401",
    "hub-403",
    "hub-cut",
    "hub-reset",
    "hub-garbage",
)

_TIMED = re.compile(r"hub-(slow|429|503)=(\d+(?:\.\d+)?)(ms|s)")


class HubMode(StrEnum):
    """How the hub is.

    ``HUNG``: connections are accepted and nothing is answered; what was asked meanwhile reaches the hub when it is
    well again, also of a caller that has long given up. ``AWAY``: connections are refused and cut. ``BLACK_HOLE``:
    packets are lost, so that not even a connection comes about. ``STATUS``: every answer is that status, and the hub
    hears nothing. ``TOO_LARGE``: a body of more bytes than that is answered 413. ``RESET``: cut in the middle of the
    request, of which the hub sees half. ``RESET_ANSWER``: the hub does what it was asked, and the connection is cut in
    the middle of its answer; ``CUT``: before the answer. ``GARBAGE``: a web page instead of an answer, as of a network
    that wants a login. ``NOISE``: bytes that are no HTTP.
    """

    OK = "ok"
    SLOW = "slow"
    HUNG = "hung"
    AWAY = "away"
    BLACK_HOLE = "black-hole"
    STATUS = "status"
    TOO_LARGE = "413"
    RESET = "reset"
    RESET_ANSWER = "reset-answer"
    CUT = "cut"
    GARBAGE = "garbage"
    NOISE = "noise"


_SAID = {
    f"hub-{mode}": mode
    for mode in (HubMode.HUNG, HubMode.AWAY, HubMode.BLACK_HOLE, HubMode.CUT, HubMode.RESET, HubMode.GARBAGE)
}


@dataclass(frozen=True)
class HubFault:
    """What is wrong with the hub.

    ``delay_s`` is how much later each answer of a slow one comes, half of it on the way there, half on the way back.
    ``status`` and ``retry_after_s`` (seconds, or ``as_date``) are what a ``STATUS`` answers; ``max_bytes`` is what a
    ``TOO_LARGE`` takes. ``clock_s`` is how far the hub's clock is ahead, in any mode. Raises ``ValueError`` for a
    value that its mode does not have.
    """

    mode: HubMode
    delay_s: float = 0.0
    status: int = 0
    retry_after_s: float | None = None
    as_date: bool = False
    max_bytes: int = 0
    clock_s: float = 0.0

    def __post_init__(self) -> None:
        answers = self.mode is HubMode.STATUS
        if not math.isfinite(self.delay_s) or (self.delay_s > 0) != (self.mode is HubMode.SLOW):
            raise ValueError("a slow hub, and no other, has a delay in seconds")
        if (300 <= self.status <= 599) != answers or (not answers and self.status):
            raise ValueError("a hub that always answers the same has a status from 300 to 599, no other has one")
        if self.retry_after_s is not None and not (answers and 0 <= self.retry_after_s < math.inf):
            raise ValueError("only a status has a Retry-After, of 0 seconds or more")
        if self.as_date and self.retry_after_s is None:
            raise ValueError("only a Retry-After can be a date")
        if (self.max_bytes > 0) != (self.mode is HubMode.TOO_LARGE) or self.max_bytes < 0:
            raise ValueError("a hub that finds bodies too large, and no other, has a limit in bytes")
        if not math.isfinite(self.clock_s):
            raise ValueError("a clock is off by a number of seconds")

    @classmethod
    def parse(cls, text: str) -> HubFault:
        """One of ``FAULTS``, with any time in ``s`` or ``ms``. Raises ``ValueError`` for anything else."""
        timed = _TIMED.fullmatch(text)
        if timed is not None:
            seconds = float(timed[2]) / (1000 if timed[3] == "ms" else 1)
            return slow(seconds) if timed[1] == "slow" else answers(int(timed[1]), retry_after_s=seconds)
        if text in _SAID:
            return cls(_SAID[text])
        if text in FAULTS and text.removeprefix("hub-").isdecimal():
            return answers(int(text.removeprefix("hub-")))
        raise ValueError(f"'{text}' is none of {', '.join(FAULTS)}")

    def __str__(self) -> str:
        text = f"hub-{self.status or self.mode}"
        if self.mode is HubMode.SLOW:
            text += f"={self.delay_s:g}s"
        elif self.retry_after_s is not None:
            text += f"={self.retry_after_s:g}s{' as a date' if self.as_date else ''}"
        elif self.max_bytes:
            text += f" above {self.max_bytes} bytes"
        return f"{text}, clock {self.clock_s:+g}s" if self.clock_s else text


OK = HubFault(HubMode.OK)
HUNG = HubFault(HubMode.HUNG)
AWAY = HubFault(HubMode.AWAY)
BLACK_HOLE = HubFault(HubMode.BLACK_HOLE)
RESET = HubFault(HubMode.RESET)
RESET_ANSWER = HubFault(HubMode.RESET_ANSWER)
CUT = HubFault(HubMode.CUT)
GARBAGE = HubFault(HubMode.GARBAGE)
NOISE = HubFault(HubMode.NOISE)


def slow(delay_s: float) -> HubFault:
    """Every answer comes ``delay_s`` later."""
    return HubFault(HubMode.SLOW, delay_s)


def answers(
    status: int, *, retry_after_s: float | None = None, as_date: bool = False, clock_s: float = 0.0
) -> HubFault:
    """Every answer is ``status``, and nothing reaches the hub."""
    return HubFault(HubMode.STATUS, status=status, retry_after_s=retry_after_s, as_date=as_date, clock_s=clock_s)


def too_large(max_bytes: int) -> HubFault:
    """A body of more than ``max_bytes`` is answered 413; the others reach the hub."""
    return HubFault(HubMode.TOO_LARGE, max_bytes=max_bytes)


def wrong_clock(ahead_s: float) -> HubFault:
    """A hub that is well but for its clock."""
    return HubFault(HubMode.OK, clock_s=ahead_s)


@dataclass(frozen=True)
class Step:
    """A part of a schedule: ``fault`` for so many requests, or so many seconds, or (neither) for ever.

    The request after the last one begins the next step, so that a hung hub lets go of the one when the next is asked.
    Raises ``ValueError`` for a step in requests of a hub that no request reaches.
    """

    fault: HubFault
    requests: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.requests is not None:
            if self.seconds is not None or self.requests < 1:
                raise ValueError("a step lasts for 1 request or more, or for some seconds")
            if self.fault.mode in (HubMode.AWAY, HubMode.BLACK_HOLE):
                raise ValueError(f"{self.fault}: no request comes there to be counted")
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise ValueError("a step lasts for more than 0 seconds")
