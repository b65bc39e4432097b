"""Trouble on purpose: a hub that is slow, hangs, or is away, as the FL server sees it. Real sockets, real waits.

A proxy stands between the FL server and the hub. It understands just enough to tell one request from the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from flip_fl.simulate.hub_exchange import Exchange
from flip_fl.simulate.hub_fault import (
    AWAY,
    BLACK_HOLE,
    CUT,
    FAULTS,
    GARBAGE,
    HUNG,
    NOISE,
    OK,
    RESET,
    RESET_ANSWER,
    HubFault,
    HubMode,
    Step,
    answers,
    slow,
    too_large,
    wrong_clock,
)
from flip_fl.simulate.hub_schedule import Asked, Schedule

__all__ = [
    "AWAY",
    "BLACK_HOLE",
    "CUT",
    "FAULTS",
    "GARBAGE",
    "HUNG",
    "NOISE",
    "OK",
    "RESET",
    "RESET_ANSWER",
    "Asked",
    "FaultyHub",
    "HubFault",
    "HubMode",
    "Step",
    "answers",
    "faulty_hub",
    "slow",
    "too_large",
    "wrong_clock",
]

HOST = "127.0.0.1"
STOP_TIMEOUT_S = 10.0
BACKLOG = 128
# With a backlog of none Linux keeps one connection that nobody accepts, and drops the packets of all others.
FILLERS = 2


@contextlib.contextmanager
def faulty_hub(
    url: str, fault: HubFault = OK, *, batch_route: bool = True, keeps_keys: bool = True
) -> Iterator[FaultyHub]:
    """The hub at ``url`` (http) behind a proxy on a free port of 127.0.0.1, ``fault`` from the start.

    Without ``batch_route`` it answers as a hub that has no such route; without ``keeps_keys`` the hub never sees an
    ``Idempotency-Key``, so that it stores a repeated post twice. Raises ``ValueError`` for an address that is not http.
    """
    proxy = FaultyHub(url, batch_route=batch_route, keeps_keys=keeps_keys)
    try:
        proxy.set(fault)
        yield proxy
    finally:
        proxy.close()


class FaultyHub:
    """The proxy: ``url`` is what the FL server is given instead of the hub's. ``set``, ``play`` and ``close`` are for
    the thread that made it; messages are passed in a thread of its own."""

    def __init__(self, url: str, *, batch_route: bool = True, keeps_keys: bool = True) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{url} is no http address: only the bytes of plain connections can be held back")
        # Bound, never listening: nobody else gets the port while the hub is away, and callers are refused.
        self._reserved = _bound(0)
        self._port = int(self._reserved.getsockname()[1])
        self.url = urlunsplit(parts._replace(netloc=f"{HOST}:{self._port}"))
        self.connections = 0
        self._listener: socket.socket | None = None
        self._fillers: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._schedule = Schedule(self._loop, self._apply)
        self._exchange = Exchange(
            (parts.hostname, parts.port or 80), self._schedule, batch_route=batch_route, keeps_keys=keeps_keys
        )
        self._thread = threading.Thread(target=self._loop.run_forever, name="flip-fl-faulty-hub", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> HubFault:
        """What is wrong now."""
        return self._schedule.fault

    @property
    def asked(self) -> list[Asked]:
        """The requests that came, the last 10,000 of them, in order."""
        return list(self._schedule.asked)

    def set(self, fault: HubFault) -> None:
        """From now on the hub is as ``fault`` says; the connections that are there, too. Returns when it is so."""
        self.play([Step(fault)])

    def play(self, steps: Sequence[Step]) -> None:
        """One step after the other from now on, then a hub that is well. Returns when the first one is in force."""
        self._call(self._begin(steps))

    def close(self) -> None:
        """End the proxy and every connection through it."""
        if not self._thread.is_alive():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_TIMEOUT_S)
        self._loop.close()
        self._reserved.close()

    def _call(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_TIMEOUT_S)

    # -- in the proxy's own thread --------------------------------------------------------------------------------

    async def _begin(self, steps: Sequence[Step]) -> None:
        self._schedule.begin(steps)

    async def _end(self) -> None:
        self._schedule.stop()
        self._stop_listening()
        await asyncio.gather(*self._exchange.cut(), return_exceptions=True)

    def _apply(self, fault: HubFault) -> None:
        if fault.mode is HubMode.AWAY:
            self._stop_listening()
            self._exchange.cut()
        elif fault.mode is HubMode.BLACK_HOLE:
            self._deafen()
        elif self._listener is None or self._fillers:
            listener = self._listen(BACKLOG)
            self._loop.add_reader(listener, self._accept, listener)

    def _listen(self, backlog: int) -> socket.socket:
        fresh = _bound(self._port)
        fresh.setblocking(False)
        fresh.listen(backlog)
        # Only now the former one goes, so that nobody is refused in between.
        self._stop_listening()
        self._listener = fresh
        return fresh

    def _deafen(self) -> None:
        self._listen(0)
        for _ in range(FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex((HOST, self._port))
            self._fillers.append(filler)

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for filler in self._fillers:
            filler.close()
        self._fillers = []

    def _accept(self, listener: socket.socket) -> None:
        try:
            caller, _ = listener.accept()
        except OSError:
            return
        caller.setblocking(False)
        self.connections += 1
        self._exchange.take(caller)


def _bound(port: int) -> socket.socket:
    """A socket bound to ``port`` of 127.0.0.1 that lets another one of ours be bound there, too.

    SO_REUSEADDR would let any server listen there that has it too, as most have, while ours only keeps the place.
    """
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((HOST, port))
    except BaseException:
        made.close()
        raise
    return made
