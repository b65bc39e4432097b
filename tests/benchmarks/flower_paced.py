"""Sites of a local grid that work for some time, all at the same time, as sites with machines of their own do."""

from __future__ import annotations

import contextlib
import heapq
import os
import selectors
import threading
import time
from collections.abc import Iterator, Sequence

from flwr.app import Message

from flip_fl.flower.local_site import LocalSite


class Clock:
    """Makes a descriptor readable at a given time; a thread of its own, which works for microseconds a call."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, int]] = []
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="paced-sites", daemon=True)
        self._thread.start()

    def call(self, at: float, event: int) -> None:
        """Write to the eventfd ``event`` at ``at`` (monotonic seconds)."""
        with self._changed:
            heapq.heappush(self._calls, (at, event))
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._over:
                left = self._calls[0][0] - time.monotonic() if self._calls else None
                if left is None or left > 0:
                    self._changed.wait(left)
                else:
                    os.eventfd_write(heapq.heappop(self._calls)[1], 1)


class PacedSite:
    """``inner``, whose answer to each message is there ``work_s`` seconds after it, and worked out then."""

    def __init__(self, inner: LocalSite, clock: Clock, work_s: float) -> None:
        self.slot = inner.slot
        self.node_id = inner.node_id
        self._inner = inner
        self._clock = clock
        self._work_s = work_s
        self._event = os.eventfd(0, os.EFD_NONBLOCK)
        self._rung = False

    @property
    def ready(self) -> bool:
        if not self._rung:
            with contextlib.suppress(BlockingIOError):
                self._rung = bool(os.eventfd_read(self._event))
        return self._rung

    def handles(self) -> list[tuple[int, int]]:
        return [(self._event, selectors.EVENT_READ)]

    def submit(self, message: Message) -> None:
        self._inner.submit(message)
        self._clock.call(time.monotonic() + self._work_s, self._event)

    def poll(self) -> Message | None:
        if not self.ready:
            return None
        self._rung = False
        return self._inner.poll()

    def stop(self) -> None:
        self._inner.stop()

    def close(self, grace_s: float = 0.0) -> None:
        self._inner.close(grace_s)
        os.close(self._event)


@contextlib.contextmanager
def paced(sites: Sequence[LocalSite], least_s: float, most_s: float) -> Iterator[list[PacedSite]]:
    """``sites`` that all work at the same time, for ``least_s`` to ``most_s`` seconds, the last for all of these.

    Their answers come one after another: no two hospitals are done in the same millisecond.
    """
    clock = Clock()
    waits = [least_s + (most_s - least_s) * (number + 1) / len(sites) for number in range(len(sites))]
    made = [PacedSite(site, clock, wait) for site, wait in zip(sites, waits, strict=True)]
    try:
        yield made
    finally:
        clock.close()
        for site in made:
            site.close()
