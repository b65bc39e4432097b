"""Trouble on purpose: a hub that is slow, hangs, or is away, as the FL server sees it. Real sockets, real waits.

A proxy stands between the FL server and the hub. It passes bytes and understands none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import re
import socket
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HOST = "127.0.0.1"
CHUNK = 1 << 16
STOP_TIMEOUT_S = 10.0
FAULTS = ("hub-slow=2s", "hub-hung", "hub-away")

_SLOW = re.compile(r"hub-slow=(\d+(?:\.\d+)?)(ms|s)")


class HubMode(StrEnum):
    """How the hub is. ``HUNG``: connections are accepted and nothing is answered; what was asked meanwhile reaches the
    hub when it is well again, also of a caller that has long given up. ``AWAY``: connections are refused and cut."""

    OK = "ok"
    SLOW = "slow"
    HUNG = "hung"
    AWAY = "away"


@dataclass(frozen=True)
class HubFault:
    """What is wrong with the hub; ``delay_s`` is how much later each answer of a slow one comes."""

    mode: HubMode
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.delay_s) or (self.delay_s > 0) != (self.mode is HubMode.SLOW):
            raise ValueError("a slow hub, and no other, has a delay in seconds")

    @classmethod
    def parse(cls, text: str) -> HubFault:
        """``hub-slow=2s`` (or ``=500ms``), ``hub-hung`` or ``hub-away``. Raises ``ValueError`` for anything else."""
        slow = _SLOW.fullmatch(text)
        if slow is not None:
            return cls(HubMode.SLOW, float(slow[1]) / (1000 if slow[2] == "ms" else 1))
        if text in ("hub-hung", "hub-away"):
            return cls(HubMode(text.removeprefix("hub-")))
        raise ValueError(f"'{text}' is none of {', '.join(FAULTS)}")

    def __str__(self) -> str:
        return f"hub-slow={self.delay_s:g}s" if self.mode is HubMode.SLOW else f"hub-{self.mode}"


OK = HubFault(HubMode.OK)
HUNG = HubFault(HubMode.HUNG)
AWAY = HubFault(HubMode.AWAY)


def slow(delay_s: float) -> HubFault:
    """Every answer comes ``delay_s`` later."""
    return HubFault(HubMode.SLOW, delay_s)


@contextlib.contextmanager
def faulty_hub(url: str, fault: HubFault = OK) -> Iterator[FaultyHub]:
    """The hub at ``url`` (http) behind a proxy on a free port of 127.0.0.1, ``fault`` from the start.

    Raises ``ValueError`` for an address that is not http.
    """
    proxy = FaultyHub(url)
    try:
        proxy.set(fault)
        yield proxy
    finally:
        proxy.close()


class FaultyHub:
    """The proxy: ``url`` is what the FL server is given instead of the hub's. ``set`` and ``close`` are for the thread
    that made it; bytes are passed in a thread of its own."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"{url} is no http address: only the bytes of plain connections can be held back")
        self._target = (parts.hostname, parts.port or 80)
        # Bound, never listening: nobody else gets the port while the hub is away, and callers are refused.
        self._reserved = _bound(0)
        self._port = int(self._reserved.getsockname()[1])
        self.url = urlunsplit(parts._replace(netloc=f"{HOST}:{self._port}"))
        self.connections = 0
        self._fault = AWAY
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flowing = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flip-fl-faulty-hub", daemon=True)
        self._thread.start()

    @property
    def fault(self) -> HubFault:
        """What is wrong now."""
        return self._fault

    def set(self, fault: HubFault) -> None:
        """From now on the hub is as ``fault`` says; the connections that are there, too. Returns when it is so."""
        self._call(self._apply(fault))

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

    async def _apply(self, fault: HubFault) -> None:
        self._fault = fault
        if fault.mode is HubMode.AWAY:
            self._go_away()
        elif self._server is None:
            self._server = await asyncio.start_server(self._serve, sock=_bound(self._port))
        if fault.mode is HubMode.HUNG:
            self._flowing.clear()
        else:
            self._flowing.set()

    def _go_away(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in self._open:
            writer.transport.abort()

    async def _end(self) -> None:
        self._go_away()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        # Cancelled only at the end of all; the library would log that as an error of ours.
        with self._opened(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            await self._flowing.wait()
            to_hub = await asyncio.open_connection(*self._target)
            with self._opened(to_hub[1]):
                asked = asyncio.Event()
                await asyncio.gather(self._ask(reader, to_hub[1], asked), self._answer(to_hub[0], writer, asked))

    @contextlib.contextmanager
    def _opened(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._open.add(writer)
        try:
            yield
        finally:
            self._open.discard(writer)
            writer.close()

    async def _ask(self, reader: asyncio.StreamReader, hub: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await reader.read(CHUNK):
            await self._flowing.wait()
            asked.set()
            hub.write(data)
            await hub.drain()
        await self._flowing.wait()
        hub.write_eof()

    async def _answer(self, hub: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: asyncio.Event) -> None:
        while data := await hub.read(CHUNK):
            if asked.is_set():
                # The first bytes after a question are the begin of its answer: nobody asks twice before hearing.
                asked.clear()
                await asyncio.sleep(self._fault.delay_s)
            await self._flowing.wait()
            # A caller that has given up hears nothing; its question was asked all the same.
            if not writer.transport.is_closing():
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


def _bound(port: int) -> socket.socket:
    """A socket bound to ``port`` of 127.0.0.1 that lets another one of ours be bound there, too."""
    made = socket.socket()
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((HOST, port))
    except BaseException:
        made.close()
        raise
    return made
