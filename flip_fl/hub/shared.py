"""Answers that take long and that several ask for at the same time: made once for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from starlette.concurrency import run_in_threadpool

T = TypeVar("T")


class Shared(Generic[T]):
    """Whoever asks while an answer is being made gets that one; nothing is kept. To be used in one event loop.

    An answer may thus be as old as it takes to be made. Who waits holds no thread.
    """

    def __init__(self) -> None:
        self._making: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returns or raises, called in a thread unless an answer to ``key`` is being made already."""
        task = self._making.get(key)
        if task is None:
            task = asyncio.create_task(run_in_threadpool(make))
            self._making[key] = task
            task.add_done_callback(lambda made: self._made(key, made))
        # Who goes away does not take the answer of the others along.
        return await asyncio.shield(task)

    def _made(self, key: Hashable, task: asyncio.Task[T]) -> None:
        del self._making[key]
        if not task.cancelled():
            # Everybody may have gone: nobody is to be told then that it was raised and not looked at.
            task.exception()
