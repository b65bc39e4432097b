"""How far the clocks of those who report are from the hub's, as far as their rows tell.

A row says when it was sent by its sender's clock and when it came by the hub's. None comes before it was sent, so a
row from the future proves a clock that is ahead. One that comes late may have waited: only when all of the newest did,
the clock may be behind. Of a site its FL server says, with each result, between which bounds its clock lies to its own;
a site of which that is not told has a clock of its own here where it reports by itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from flip_fl.dashboard.story import Skew
from flip_fl.hub.feed import LogRow
from flip_fl.values import WORTH_TELLING_SKEW_S, EventType, natural_key

# A clock that was set right is right after so many rows.
_NEWEST = 50
_ENOUGH = 5


@dataclass(frozen=True)
class _Bounds:
    """A site's clock is ahead of its FL server's by ``least`` seconds at least and ``most`` at most."""

    least: float
    most: float


class Clocks:
    """Folded from a run's rows one by one, in the order in which they were stored."""

    def __init__(self, rows: Iterable[LogRow] = ()) -> None:
        self._waits: dict[str | None, deque[float]] = {}
        self._bounds: dict[str, _Bounds] = {}
        for row in rows:
            self.take(row)

    def take(self, row: LogRow) -> None:
        """Fold one row. A typed event is the FL server's own, whichever site it is about."""
        sender = row.slot if row.event_type is None else None
        wait = (row.stored_at - row.sent_at).total_seconds()
        self._waits.setdefault(sender, deque(maxlen=_NEWEST)).append(wait)
        if row.event_type == EventType.CLIENT_RESULT_RECEIVED and row.slot is not None:
            bounds = _bounds(row.details.get("clock"))
            if bounds is not None:
                self._bounds[row.slot] = bounds

    def skews(self) -> list[Skew]:
        """Whose clocks are more than 30 s off: first the FL server's, then sites whose clock is not just its."""
        server = _ahead(None, self._waits.get(None, ()))
        found = [] if server is None else [server]
        own = {slot: _ahead(slot, waits) for slot, waits in self._waits.items() if slot is not None}
        # What bounds say is better than what a row's delay makes one think.
        own |= {slot: _beyond(slot, bounds, server) for slot, bounds in self._bounds.items()}
        for slot in sorted(own, key=natural_key):
            skew = own[slot]
            if skew is None:
                continue
            if slot in self._bounds or server is None or abs(skew.seconds - server.seconds) > WORTH_TELLING_SKEW_S:
                found.append(skew)
        return found

    @property
    def lead(self) -> timedelta:
        """By how much the FL server's clock is ahead of the hub's, where that is worth telling."""
        server = _ahead(None, self._waits.get(None, ()))
        return timedelta(seconds=max(0.0, server.seconds if server is not None else 0.0))


def _ahead(slot: str | None, waits: Iterable[float]) -> Skew | None:
    """How far a clock is ahead at least, or, below 0, behind at most; None where that is not worth telling."""
    known = list(waits)
    least = min(known, default=0.0)
    if least < -WORTH_TELLING_SKEW_S:
        return Skew(slot=slot, seconds=round(-least, 1))
    late = least > WORTH_TELLING_SKEW_S and len(known) >= _ENOUGH
    return Skew(slot=slot, seconds=round(-least, 1), proven=False) if late else None


def _bounds(said: object) -> _Bounds | None:
    if not isinstance(said, list) or len(said) != 2:
        return None
    least, most = (_number(bound) for bound in said)
    known = _Bounds(-math.inf if least is None else least, math.inf if most is None else most)
    return known if known.least <= known.most else None


def _number(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
    return float(value) if usable and isinstance(value, int | float) else None


def _beyond(slot: str, bounds: _Bounds, server: Skew | None) -> Skew | None:
    """How far a site's clock is off the hub's, where it is off its FL server's, whose own is off by what is known."""
    if bounds.least > WORTH_TELLING_SKEW_S:
        off = bounds.least
    elif bounds.most < -WORTH_TELLING_SKEW_S:
        off = bounds.most
    else:
        return None
    if server is not None and (server.proven or off > 0):
        # A server that may be behind takes from a lead, and adds nothing that is certain to what a site is behind.
        off += server.seconds
    return Skew(slot=slot, seconds=round(off, 1)) if abs(off) > WORTH_TELLING_SKEW_S else None
