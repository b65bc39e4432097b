"""How far the sites' clocks are from this FL server's, and times of theirs put on its clock.

A site says with a task's result when it began and ended by its own clock. It did not begin before it was asked, nor end
after its answer came: the two differences are bounds of how far its clock is ahead, however long the way took.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from flip_fl.values import WORTH_TELLING_SKEW_S
from flip_fl.wire import SiteFacts

# A clock that was set right is right after so many results.
_NEWEST = 5


@dataclass(frozen=True)
class Ahead:
    """By how many seconds at least and at most a clock is ahead of another (below 0: behind); None: unknown."""

    least: float | None = None
    most: float | None = None

    @property
    def off(self) -> float:
        """By how many seconds it is certainly off, where that is worth telling; else 0."""
        if self.least is not None and self.least > WORTH_TELLING_SKEW_S:
            return self.least
        if self.most is not None and self.most < -WORTH_TELLING_SKEW_S:
            return self.most
        return 0.0

    @property
    def facts(self) -> list[float | None]:
        """As an event's details tell it."""
        return [None if bound is None else round(bound, 1) for bound in (self.least, self.most)]


class SiteClocks:
    """The bounds of each site's clock, from its newest results. Safe for several threads."""

    def __init__(self) -> None:
        self._newest: dict[str, deque[Ahead]] = {}
        self._off: dict[str, float] = {}
        self._lock = threading.Lock()

    def heard(self, slot: str, facts: SiteFacts | None, took_s: float | None, now: datetime | None = None) -> Ahead:
        """Note what ``slot`` says in an answer that comes ``now``, ``took_s`` after the question; all that is known."""
        with self._lock:
            newest = self._newest.setdefault(slot, deque(maxlen=_NEWEST))
            if facts is not None:
                arrived = now or datetime.now(UTC)
                asked = None if took_s is None else arrived - timedelta(seconds=took_s)
                newest.append(Ahead(_between(facts.ended, arrived), _between(facts.began, asked)))
            known = _together(newest)
            self._off[slot] = known.off
            return known

    def on_server_time(self, slot: str, items: Sequence[Any], now: datetime | None = None) -> Sequence[Any]:
        """``items`` of ``slot`` with their times on this server's clock, where that of the site is known to be off."""
        if slot not in self._off and items:
            # Live reports come before the first result: one from the future proves as much.
            lead = _between(_time_of(items[-1]), now or datetime.now(UTC))
            if lead is not None and lead > WORTH_TELLING_SKEW_S:
                self._off[slot] = lead
        off = self._off.get(slot, 0.0)
        return [_moved(item, off) for item in items] if off else items


def _between(later: datetime | None, earlier: datetime | None) -> float | None:
    return None if later is None or earlier is None else (later - earlier).total_seconds()


def _together(newest: Sequence[Ahead]) -> Ahead:
    """What several results prove of one clock; the newest alone where that was set in between."""
    if not newest:
        return Ahead()
    least = max((each.least for each in newest if each.least is not None), default=None)
    most = min((each.most for each in newest if each.most is not None), default=None)
    return newest[-1] if least is not None and most is not None and least > most else Ahead(least, most)


def _moved(item: Any, off: float) -> Any:
    """A report as JSON types; one whose time cannot be read is left as it is, for whoever judges it."""
    at = _time_of(item)
    try:
        return item if at is None else {**item, "at": (at - timedelta(seconds=off)).isoformat()}
    except OverflowError:
        return item


def _time_of(item: Any) -> datetime | None:
    if not isinstance(item, dict) or not isinstance(item.get("at"), str):
        return None
    try:
        at = datetime.fromisoformat(item["at"])
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
