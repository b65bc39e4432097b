"""Live batches: what a site reports while a task runs, and the same events again for the task's result."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from flip_fl.wire import LogItem, MetricItem

Publish = Callable[[list[dict[str, Any]]], None]


class Batcher:
    """Collects items and publishes a batch when ``max_items`` wait or the oldest is ``max_age_s`` old.

    ``publish`` is fire and forget: what it raises is ignored, because ``events`` holds every item again for the
    acknowledged result. Safe for several threads; ``close`` publishes what is left and ends the timer.
    """

    def __init__(self, publish: Publish, max_items: int = 100, max_age_s: float = 1.0) -> None:
        self._publish = publish
        self._max_items = max_items
        self._max_age_s = max_age_s
        self._waiting: list[dict[str, Any]] = []
        self._oldest = 0.0
        self._state = threading.Condition()
        # Held while publishing, so that batches leave in the order in which they were filled.
        self._line = threading.Lock()
        self._timer: threading.Thread | None = None
        self._closed = False
        self.events: list[dict[str, Any]] = []

    def add(self, item: MetricItem | LogItem) -> None:
        """Keep ``item`` for the result and queue it for the next batch."""
        event = item.model_dump(mode="json")
        with self._state:
            if self._closed:
                return
            self.events.append(event)
            self._waiting.append(event)
            if len(self._waiting) == 1:
                self._oldest = time.monotonic()
                self._start_timer()
                self._state.notify()
            full = len(self._waiting) >= self._max_items
        if full:
            self.flush()

    def flush(self) -> None:
        """Publish what waits, now."""
        with self._line:
            with self._state:
                batch, self._waiting = self._waiting, []
            if batch:
                with contextlib.suppress(Exception):
                    self._publish(batch)

    def close(self) -> None:
        """Publish the rest; nothing is accepted afterwards."""
        with self._state:
            self._closed = True
            self._state.notify()
        self.flush()

    def _start_timer(self) -> None:
        if self._timer is None:
            self._timer = threading.Thread(target=self._watch, name="flip-batch", daemon=True)
            self._timer.start()

    def _watch(self) -> None:
        while True:
            with self._state:
                while not self._waiting and not self._closed:
                    self._state.wait()
                if self._closed:
                    return
                left = self._oldest + self._max_age_s - time.monotonic()
                if left > 0:
                    self._state.wait(left)
                    continue
            self.flush()
