"""Live batches: what a site reports while a task runs, and the same events again for the task's result."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from flip_fl.wire import MAX_BATCH_ITEMS, LogItem, MetricItem, SiteBatch

Publish = Callable[[SiteBatch], None]

# What the result carries at most, and what waits at most where the channel stands still.
MAX_KEPT = 100_000
# A channel that stands still must not hold up the end of the task, whose result carries everything again.
CLOSE_WAIT_S = 2.0


class Batcher:
    """Collects and numbers a task's items, and publishes a batch when ``max_items`` wait or one is ``max_age_s`` old.

    ``task`` says which task it is. ``publish`` (None: nobody listens) is called on a thread of its own, so that the app
    never waits for a network. It is fire and forget: what it raises is ignored, because ``kept`` holds the items again
    for the acknowledged result. Safe for several threads.
    """

    def __init__(self, publish: Publish | None, task: SiteBatch, max_items: int = 100, max_age_s: float = 1.0) -> None:
        self._publish = publish
        self._task = task
        self._max_items = max_items
        self._max_age_s = max_age_s
        self._made = 0
        self._kept: deque[dict[str, Any]] = deque(maxlen=MAX_KEPT)
        self._waiting: deque[dict[str, Any]] = deque(maxlen=MAX_KEPT)
        self._oldest = 0.0
        self._state = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def kept(self) -> SiteBatch:
        """All items of the task (beyond 100,000 the newest ones), and how many there were."""
        with self._state:
            first = self._made - len(self._kept)
            return self._task.model_copy(update={"first": first, "made": self._made, "items": list(self._kept)})

    def add(self, item: MetricItem | LogItem) -> None:
        """Keep ``item`` for the result and queue it for the next batch. After ``close`` nothing is taken."""
        event = item.model_dump(mode="json")
        with self._state:
            if self._closed:
                return
            self._made += 1
            self._kept.append(event)
            if self._publish is None:
                return
            self._waiting.append(event)
            if len(self._waiting) == 1:
                self._oldest = time.monotonic()
                self._state.notify()
            elif len(self._waiting) >= self._max_items:
                self._state.notify()
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, args=(self._publish,), name="flip-batch", daemon=True
                )
                self._thread.start()

    def forget_metrics(self) -> None:
        """Take back every metric that was kept for the result; only where nothing was published meanwhile."""
        with self._state:
            self._kept = deque((item for item in self._kept if item["kind"] != "metric"), MAX_KEPT)
            self._made = len(self._kept)

    def close(self) -> None:
        """Take nothing more, and publish the rest, unless that takes longer than 2 s."""
        with self._state:
            self._closed = True
            self._state.notify()
        if self._thread is not None:
            self._thread.join(CLOSE_WAIT_S)

    def _work(self, publish: Publish) -> None:
        while (batch := self._next()) is not None:
            with contextlib.suppress(Exception):
                publish(batch)

    def _next(self) -> SiteBatch | None:
        """Wait for the next batch; None when there will be none."""
        with self._state:
            while not self._due():
                self._state.wait(self._oldest + self._max_age_s - time.monotonic() if self._waiting else None)
            if not self._waiting:
                return None
            number = self._made - len(self._waiting)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH_ITEMS))]
            # What is left has waited while the one before was published.
            self._oldest = 0.0
            return self._task.model_copy(update={"first": number, "items": batch})

    def _due(self) -> bool:
        if self._closed or len(self._waiting) >= self._max_items:
            return True
        return bool(self._waiting) and time.monotonic() >= self._oldest + self._max_age_s
