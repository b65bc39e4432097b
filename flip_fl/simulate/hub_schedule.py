"""Which fault each request to a faulty hub meets, and when one fault gives way to the next."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flip_fl.simulate.hub_fault import AWAY, OK, HubFault, HubMode, Step
from flip_fl.simulate.hub_http import Head

MAX_ASKED = 10_000
_SILENT = (HubMode.HUNG, HubMode.BLACK_HOLE)


@dataclass(frozen=True)
class Asked:
    """One request that came, and the fault that it met; ``at`` is ``time.monotonic()``, ``size`` the body's bytes."""

    at: float
    method: str
    path: str
    size: int
    fault: HubFault


class Schedule:
    """One step after the other, then a hub that is well; ``change`` is told of each fault that begins.

    Belongs to the thread of ``loop``, but for ``fault`` and ``asked`` (the last 10,000 requests), which anybody reads.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, change: Callable[[HubFault], None]) -> None:
        self.fault = AWAY
        self.asked: deque[Asked] = deque(maxlen=MAX_ASKED)
        self._loop = loop
        self._change = change
        self._steps: deque[Step] = deque()
        self._left: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._flowing = asyncio.Event()

    def begin(self, steps: Sequence[Step]) -> None:
        """Forget the former steps and go on with the first of these."""
        self._steps = deque(steps)
        self._next()

    def meet(self, head: Head) -> HubFault:
        """Count a request; the fault that it meets."""
        if self._left == 0:
            self._next()
        if self._left is not None:
            self._left -= 1
        self.asked.append(Asked(time.monotonic(), head.method, head.path, head.length or 0, self.fault))
        return self.fault

    async def flowing(self) -> HubFault:
        """Wait while nothing moves; how the hub is then."""
        await self._flowing.wait()
        return self.fault

    def stop(self) -> None:
        """Nothing changes any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _next(self) -> None:
        self.stop()
        step = self._steps.popleft() if self._steps else Step(OK)
        self._timer = None if step.seconds is None else self._loop.call_later(step.seconds, self._next)
        self._left, self.fault = step.requests, step.fault
        if step.fault.mode in _SILENT:
            self._flowing.clear()
        else:
            self._flowing.set()
        self._change(step.fault)
