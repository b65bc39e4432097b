"""Asking for many things side by side: a bounded number in flight, answers in the order in which they come."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

LOOK_S = 0.1
# A thread looks for so many before it tells of them: being told costs as much as looking. More threads than that would
# mostly wait for each other.
LOOKS_AT_ONCE, LOOKERS = 16, 8
# So many begin; each answer lets one more begin. A service is not met by all at once, nor is whoever waits for the
# first answer kept from it by the threads that wait for the others.
FIRST_WORKERS = 8


@dataclass(frozen=True)
class _Answers(Generic[K, V]):
    """What one thread found, or what it failed with."""

    found: Sequence[tuple[K, V]] = ()
    error: BaseException | None = None


class SideBySide(Generic[K, V]):
    """Calls ``ask(key)`` for every key, at most ``workers`` of them at once, from ``start`` on; not for those that
    ``look`` already gives an answer for (None: it has none), which takes no time worth telling.

    The threads are daemons: one that still waits for a service never holds up the end of the process. ``stop`` lets no
    further call begin and sets ``stopped``, which long waits inside ``ask`` should look at.
    """

    def __init__(
        self,
        keys: Sequence[K],
        ask: Callable[[K], V],
        workers: int,
        *,
        look: Callable[[K], V | None] = lambda key: None,
    ) -> None:
        self.stopped = threading.Event()
        self._ask = ask
        self._look = look
        self._workers = min(workers, len(keys))
        self._started = 0
        self._left = len(keys)
        self._unlooked = iter(keys)
        self._unknown: deque[K] = deque()
        self._looking = 0
        self._changed = threading.Condition()
        self._answers: queue.SimpleQueue[_Answers[K, V]] = queue.SimpleQueue()
        self._taken: deque[tuple[K, V]] = deque()

    def start(self) -> None:
        for _ in range(min(FIRST_WORKERS, self._workers)):
            self._one_more()

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
                if not self._taken:
                    try:
                        answers = self._answers.get(timeout=LOOK_S)
                    except queue.Empty:
                        continue
                    if answers.error is not None:
                        raise answers.error
                    self._taken.extend(answers.found)
                self._left -= 1
                return self._taken.popleft()
        except BaseException:
            self.stop()
            raise
        return None

    def _work(self) -> None:
        try:
            while (key := self._next()) is not None:
                self._answers.put(_Answers([(key, self._ask(key))]))
                self._one_more()
        except BaseException as error:
            self._answers.put(_Answers(error=error))

    def _one_more(self) -> None:
        with self._changed:
            if self._started == self._workers:
                return
            self._started += 1
            name = f"flip-fetch-{self._started}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _next(self) -> K | None:
        """A key that must be asked for; None when there is none any more."""
        while not self.stopped.is_set():
            with self._changed:
                # One always looks: what is known must not wait for what takes long.
                lookers = 1 if self._unknown else LOOKERS
                keys = list(islice(self._unlooked, LOOKS_AT_ONCE if self._looking < lookers else 0))
                if not keys:
                    if self._unknown:
                        return self._unknown.popleft()
                    if not self._looking:
                        break
                    # Others may find that something is unknown.
                    self._changed.wait(LOOK_S)
                    continue
                self._looking += 1
            self._look_for(keys)
        return None

    def _look_for(self, keys: Sequence[K]) -> None:
        answers = [(key, self._look(key)) for key in keys]
        found = [(key, answer) for key, answer in answers if answer is not None]
        unknown = [key for key, answer in answers if answer is None]
        if found:
            self._answers.put(_Answers(found))
        with self._changed:
            self._unknown.extend(unknown)
            self._looking -= 1
            self._changed.notify(len(unknown))
