"""Work beside the caller's thread, which can be left at any moment: nobody waits for a store that hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

POLL_S = 0.2
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Lane:
    """Daemon threads that take up what they are given in its order; with one thread it is also done in that order.

    ``concurrent.futures`` would have the interpreter wait for its threads, however long a request of theirs takes.
    """

    def __init__(self, threads: int = 1) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = threads
        for _ in range(threads):
            threading.Thread(target=self._run, name="flip-results", daemon=True).start()

    def __enter__(self) -> Lane:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """What was given is still done; nobody waits for it."""
        for _ in range(self._threads):
            self._work.put(None)

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """``function(*args, **kwargs)``, some time soon."""
        future: Future[_T] = Future()

        def run() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self._work.put(run)
        return future

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # else it keeps a part's bytes until the next one comes


def settled(future: Future[_T], check: Callable[[], Any]) -> _T:
    """The result of ``future``; ``check`` is asked several times a second meanwhile, and may raise."""
    while not wait([future], timeout=POLL_S).done:
        check()
    return future.result()
