"""For whom a run waits before its first round, told to the hub: who is there, how many are needed, when it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from flip_fl.reporting.reporter import Reporter
from flip_fl.values import EventType

# Sites that are on their way need no word.
WORTH_TELLING_S = 10.0


class SitesAwaited:
    """One wait, which begins now and ends after ``timeout_s``; each change of who is there is told once."""

    def __init__(
        self, reporter: Reporter, needs: int, timeout_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._reporter = reporter
        self._needs = needs
        self._clock = clock
        self._begun = clock()
        self._until = datetime.now(UTC) + timedelta(seconds=timeout_s)
        self._told: list[str] | None = None

    def look(self, there: Sequence[str], slots: Sequence[str]) -> None:
        """``there`` of ``slots`` (none: whoever comes) are connected, and the wait goes on."""
        if self._clock() - self._begun < WORTH_TELLING_S or self._told == list(there):
            return
        self._told = list(there)
        details = {
            "there": self._told,
            "awaited": [slot for slot in slots if slot not in there],
            "needs": self._needs,
            "until": self._until.isoformat(timespec="seconds"),
        }
        # The event needs a round, and it is the first that is waited for.
        self._reporter.event(EventType.SITES_AWAITED, global_round=1, details=details)
