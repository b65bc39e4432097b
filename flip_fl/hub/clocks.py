"""How far the clocks of those who report are from the hub's, as far as their rows tell.

A row says when it was sent by its sender's clock and when it came by the hub's. None comes before it was sent, so a
row from the future proves a clock that is ahead. One that comes late may have waited: only when all of the newest did,
the clock may be behind. The FL server stamps what it reports for the sites; a site has a clock of its own here where
it reports by itself, and where the FL server says by how much it differs from its own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from flip_fl.dashboard.story import Skew
from flip_fl.hub.feed import LogRow
from flip_fl.hub.words import number
from flip_fl.values import EventType, natural_key

# Less is told of nobody: a report may wait for its turn so long.
WORTH_TELLING_S = 30.0
# A clock that was set right is right after so many rows.
_NEWEST = 50
_ENOUGH = 5


class Clocks:
    """Folded from a run's rows one by one, in the order in which they were stored."""

    def __init__(self, rows: Iterable[LogRow] = ()) -> None:
        self._waits: dict[str | None, deque[float]] = {}
        # By site, how far ahead of the FL server's clock it said last.
        self._differ: dict[str, float] = {}
        for row in rows:
            self.take(row)

    def take(self, row: LogRow) -> None:
        """Fold one row. A typed event is the FL server's own, whichever site it is about."""
        if row.event_type == EventType.CLOCK_DIFFERS and row.slot is not None:
            ahead = number(row.details.get("ahead_s"))
            if ahead is not None:
                self._differ[row.slot] = ahead
        sender = row.slot if row.event_type is None else None
        wait = (row.stored_at - row.at).total_seconds()
        self._waits.setdefault(sender, deque(maxlen=_NEWEST)).append(wait)

    def skews(self) -> list[Skew]:
        """Whose clocks are more than 30 s off: first the FL server's, then sites whose clock is not just its."""
        server = _ahead(self._waits.get(None, ()))
        found = [] if server is None else [Skew(slot=None, seconds=server)]
        slots = {slot for slot in self._waits if slot is not None} | self._differ.keys()
        for slot in sorted(slots, key=natural_key):
            own = _ahead(self._waits.get(slot, ()))
            if slot in self._differ:
                said = (server or 0.0) + self._differ[slot]
                own = round(said, 1) if abs(said) > WORTH_TELLING_S else None
            if own is not None and (server is None or abs(own - server) > WORTH_TELLING_S):
                found.append(Skew(slot=slot, seconds=own))
        return found


def _ahead(waits: Iterable[float]) -> float | None:
    """Seconds that a clock is ahead at least, or, below 0, behind at most; None where that is not worth telling."""
    known = list(waits)
    least = min(known, default=0.0)
    late = least > WORTH_TELLING_S and len(known) >= _ENOUGH
    return round(-least, 1) if late or least < -WORTH_TELLING_S else None
