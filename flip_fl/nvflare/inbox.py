"""What sites report, from NVFLARE's two channels into the outbox: each report once, in the order of its site."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nvflare.apis.shareable import Shareable

from flip_fl.nvflare.protocol import get_batch
from flip_fl.reporting.gaps import Due, Gaps
from flip_fl.reporting.reporter import Reporter
from flip_fl.reporting.site_clocks import Ahead, SiteClocks
from flip_fl.wire import SiteBatch, SiteFacts

MAX_ITEMS_PER_REPLY = 100_000


@dataclass(frozen=True)
class Heard:
    """What a task's reply says of the site's work and clock; ``took_s``: how long after it was asked for it came."""

    facts: SiteFacts | None = None
    clock: Ahead | None = None
    took_s: float | None = None


class SiteInbox:
    """Takes live batches and task results, from whatever thread they come, and appends to the outbox.

    ``slot`` is always the authenticated peer: an item that names another client is refused, and one row says so.
    """

    def __init__(self, reporter: Reporter, clock: Callable[[], float] = time.monotonic) -> None:
        self.clocks = SiteClocks()
        self._reporter = reporter
        self._gaps = Gaps(clock)
        # Held until the items are in the outbox: what comes after them must not get there first.
        self._lock = threading.Lock()

    def live(self, slot: str, message: Shareable, round: int) -> None:
        """A live batch. ``round``: the run's, for rows about a batch that cannot be read."""
        batch = self._batch(slot, message, round)
        if batch is not None:
            self._receive(slot, batch, round, self._gaps.live)

    def result(self, slot: str, reply: Shareable, round: int, took_s: float | None = None) -> Heard:
        """A task's reply, ``took_s`` after it was asked for; one that says nothing of reports is no error."""
        batch = self._batch(slot, reply, round)
        if batch is None:
            return Heard()
        clock = self.clocks.heard(slot, batch.facts, took_s)
        self._receive(slot, batch, round, self._gaps.result)
        return Heard(batch.facts, clock, took_s)

    def gone(self, slot: str) -> None:
        """The site is lost: what it was working on is over."""
        with self._lock:
            self._gaps.gone(slot)

    def tick(self) -> None:
        """Append what has waited long enough; tell what never came."""
        with self._lock:
            self._settle(self._gaps.due())

    def close(self) -> None:
        """The run ends: append what waits, tell what never came."""
        with self._lock:
            self._settle(self._gaps.end())

    def _batch(self, slot: str, message: Shareable, round: int) -> SiteBatch | None:
        try:
            return get_batch(message)
        except ValueError:
            self._reporter.refused(slot, 1, "they cannot be read", round)
            return None

    def _receive(self, slot: str, batch: SiteBatch, round: int, order: Callable[[str, SiteBatch], list[Any]]) -> None:
        with self._lock:
            self._store(slot, order(slot, batch), batch.round or round)
            self._settle(self._gaps.due())

    def _settle(self, due: Due) -> None:
        for slot, items in due.items:
            self._store(slot, items, 0)
        for missing in due.missing:
            self._reporter.missing(missing)

    def _store(self, slot: str, fresh: list[Any], round: int) -> None:
        taken = fresh[:MAX_ITEMS_PER_REPLY]
        items = [item for item in taken if isinstance(item, dict) and item.get("client") == slot]
        if items:
            self._reporter.from_site(slot, self.clocks.on_server_time(slot, items))
        if len(fresh) > len(taken):
            reason = f"more than {MAX_ITEMS_PER_REPLY} in one message"
            self._reporter.refused(slot, len(fresh) - len(taken), reason, round)
        if len(taken) > len(items):
            reason = f"they name another client than {slot}"
            self._reporter.refused(slot, len(taken) - len(items), reason, round)
