"""Waking a waiting thread from anywhere, signal handlers included."""

from __future__ import annotations

from queue import Empty, SimpleQueue


class Wake:
    """Like ``threading.Event``, except that ``set`` may interrupt another ``set`` in the same thread.

    A signal handler that reports something runs in the thread that may just be reporting, and an event's lock is not
    reentrant; a ``SimpleQueue`` is. ``wait`` takes the signal with it: one waiter is woken once.
    """

    def __init__(self) -> None:
        self._signals: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._signals.empty():
            self._signals.put(None)

    def is_set(self) -> bool:
        return not self._signals.empty()

    def wait(self, timeout_s: float) -> bool:
        """Whether it was set within ``timeout_s``."""
        try:
            self._signals.get(timeout=max(0.0, timeout_s))
        except Empty:
            return False
        return True

    def clear(self) -> None:
        while self.wait(0.0):
            pass
