"""Asking for many things side by side: a bounded number in flight, answers in the order in which they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

LOOK_S = 0.1


class SideBySide(Generic[K, V]):
    """Calls ``ask(key)`` for every key, ``workers`` of them at once, from ``start`` on.

    The threads are daemons: one that still waits for a service never holds up the end of the process. ``stop`` lets no
    further call begin and sets ``stopped``, which long waits inside ``ask`` should look at.
    """

    def __init__(self, keys: Sequence[K], ask: Callable[[K], V], workers: int) -> None:
        self.stopped = threading.Event()
        self._ask = ask
        self._keys = iter(keys)
        self._workers = min(workers, len(keys))
        self._left = len(keys)
        self._lock = threading.Lock()
        self._answers: queue.SimpleQueue[tuple[K, V | None, BaseException | None]] = queue.SimpleQueue()

    def start(self) -> None:
        for number in range(self._workers):
            threading.Thread(target=self._work, name=f"flip-fetch-{number}", daemon=True).start()

    def stop(self) -> None:
        self.stopped.set()

    def answer(self, check: Callable[[], None] = lambda: None) -> tuple[K, V] | None:
        """The next answer with its key; None when there will be none. For one thread.

        ``check`` is called while nothing comes, and may raise to stop; then, and when ``ask`` has raised (raised here),
        nothing further is asked.
        """
        try:
            while self._left and not self.stopped.is_set():
                check()
                try:
                    key, answer, error = self._answers.get(timeout=LOOK_S)
                except queue.Empty:
                    continue
                self._left -= 1
                if error is not None:
                    raise error
                return key, answer  # type: ignore[return-value]
        except BaseException:
            self.stop()
            raise
        return None

    def _work(self) -> None:
        while not self.stopped.is_set():
            with self._lock:
                try:
                    key = next(self._keys)
                except StopIteration:
                    return
            try:
                self._answers.put((key, self._ask(key), None))
            except BaseException as error:
                self._answers.put((key, None, error))
