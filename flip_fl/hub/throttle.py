"""A limit on wrong keys: an address that presents too many is not answered for a while."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from math import ceil

WINDOW_S = 60.0
_MOST_ADDRESSES = 10_000
_MOST_ACCEPTED = 1_000


class Throttle:
    """Counts wrong credentials by (address, kind) in this process.

    More than ``limit`` within a minute: that address is refused unheard until the oldest of them is a minute ago.
    What was accepted from it before goes on being heard, so that one guesser does not silence a whole proxy.
    """

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._failures: OrderedDict[tuple[str, str], deque[float]] = OrderedDict()
        self._accepted: OrderedDict[bytes, None] = OrderedDict()

    def wait_s(self, address: str, kind: str, credential: str) -> int | None:
        """How many whole seconds this credential must wait before it is looked at; None: not at all."""
        with self._lock:
            times = self._failures.get((address, kind))
            if times is None:
                return None
            now = self._clock()
            while times and now - times[0] >= WINDOW_S:
                times.popleft()
            if not times:
                del self._failures[address, kind]
                return None
            if len(times) < self._limit or _mark(address, kind, credential) in self._accepted:
                return None
            return max(1, ceil(WINDOW_S - (now - times[0])))

    def failed(self, address: str, kind: str) -> int:
        """Count a wrong credential; returns how many there were within the last minute."""
        with self._lock:
            times = self._failures.setdefault((address, kind), deque(maxlen=self._limit))
            times.append(self._clock())
            self._failures.move_to_end((address, kind))
            if len(self._failures) > _MOST_ADDRESSES:
                self._failures.popitem(last=False)
            return len(times)

    def passed(self, address: str, kind: str, credential: str) -> None:
        """Remember that this credential was right."""
        mark = _mark(address, kind, credential)
        with self._lock:
            self._accepted[mark] = None
            self._accepted.move_to_end(mark)
            if len(self._accepted) > _MOST_ACCEPTED:
                self._accepted.popitem(last=False)


def _mark(address: str, kind: str, credential: str) -> bytes:
    return hashlib.sha256("\0".join((address, kind, credential)).encode("utf-8", "replace")).digest()
