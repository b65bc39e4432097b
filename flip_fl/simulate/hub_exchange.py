"""The connections through a faulty hub: each question handed on, held back, answered falsely or cut."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from typing import Any

from flip_fl.simulate.hub_fault import HubFault, HubMode
from flip_fl.simulate.hub_http import Head, answer_body, made_answer, read_head, request_body, whole
from flip_fl.simulate.hub_schedule import Schedule

_BATCH_ROUTE = "/events"
_KEY = "Idempotency-Key"
_Link = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Exchange:
    """Serves callers of the hub at ``target`` (host, port) as ``schedule`` says; see ``faults.faulty_hub`` for the
    two switches. Belongs to the event loop's thread."""

    def __init__(self, target: tuple[str, int], schedule: Schedule, *, batch_route: bool, keeps_keys: bool) -> None:
        self._target = target
        self._schedule = schedule
        self._batch_route = batch_route
        self._keeps_keys = keeps_keys
        self._serving: set[asyncio.Task[None]] = set()
        self._open: set[asyncio.StreamWriter] = set()

    def take(self, caller: socket.socket) -> None:
        """Serve a connection that was accepted."""
        # asyncio does so for the sockets it makes; an answer in two pieces would else wait for the caller's late ACK.
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = asyncio.get_running_loop().create_task(self._serve(caller))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    def cut(self) -> list[asyncio.Task[None]]:
        """End every connection at once; returns what is left to wait for."""
        for task in self._serving:
            task.cancel()
        for writer in self._open:
            writer.transport.abort()
        return list(self._serving)

    async def _serve(self, sock: socket.socket) -> None:
        # Whatever breaks here is what a broken connection looks like to the caller.
        with (
            contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError),
            contextlib.ExitStack() as links,
        ):
            caller = await asyncio.open_connection(sock=sock)
            links.enter_context(self._opened(caller[1]))
            hub: _Link | None = None
            going = True
            while going:
                head = await _next_head(caller[0], hub)
                fault = self._schedule.meet(head)
                while fault.mode in (HubMode.HUNG, HubMode.BLACK_HOLE):
                    fault = await self._schedule.flowing()
                body = await whole(request_body(head, caller[0]))
                made = self._made(head, body, fault)
                if made is not None:
                    await self._say(caller[1], made)
                    going = fault.mode not in (HubMode.NOISE, HubMode.TOO_LARGE)
                    continue
                await asyncio.sleep(fault.delay_s / 2)
                if hub is None:
                    hub = await asyncio.open_connection(*self._target)
                    links.enter_context(self._opened(hub[1]))
                going = await self._hand_on(head, body, fault, caller[1], hub)

    def _made(self, head: Head, body: bytes, fault: HubFault) -> bytes | None:
        """The answer of which the hub knows nothing; None where the hub is to be asked."""
        clock_s = fault.clock_s
        if fault.mode is HubMode.STATUS:
            return made_answer(fault.status, retry_after_s=fault.retry_after_s, as_date=fault.as_date, clock_s=clock_s)
        if fault.mode is HubMode.TOO_LARGE and len(body) > fault.max_bytes:
            return made_answer(413, detail="too large", clock_s=clock_s, close=True)
        if fault.mode is HubMode.GARBAGE:
            return made_answer(200, page=True, clock_s=clock_s)
        if fault.mode is HubMode.NOISE:
            return b"\x16\x03\x01 no HTTP at all\r\n\r\n"
        if not self._batch_route and head.path.endswith(_BATCH_ROUTE):
            return made_answer(404, detail="Not Found", clock_s=clock_s)
        return None

    async def _hand_on(
        self, head: Head, body: bytes, fault: HubFault, caller: asyncio.StreamWriter, hub: _Link
    ) -> bool:
        """Ask the hub and hand on its answer; False if the connection ends with that."""
        half = fault.mode is HubMode.RESET
        # The hub is sent all at once, and must not say beforehand that it may be.
        asked = head.without("Expect")
        asked = asked if self._keeps_keys else asked.without(_KEY)
        hub[1].write(asked.encoded() + (body[: len(body) // 2] if half else body))
        await hub[1].drain()
        if half:
            _reset(hub[1], caller)
            return False
        answer = await read_head(hub[0])
        if fault.mode is HubMode.CUT:
            _reset(caller)
            return False
        await asyncio.sleep(fault.delay_s / 2)
        pieces = answer_body(answer, head.method, hub[0])
        said = answer.shifted(fault.clock_s).encoded()
        if fault.mode is HubMode.RESET_ANSWER:
            said += await whole(pieces)
            await self._say(caller, said[: len(said) // 2])
            _reset(caller)
            return False
        await self._say(caller, said)
        async for piece in pieces:
            await self._say(caller, piece)
        return not (head.closes or answer.closes)

    async def _say(self, caller: asyncio.StreamWriter, data: bytes) -> None:
        await self._schedule.flowing()
        # A caller that has given up hears nothing; its question was asked all the same.
        if not caller.transport.is_closing():
            caller.write(data)
            await caller.drain()

    @contextlib.contextmanager
    def _opened(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        self._open.add(writer)
        try:
            yield
        finally:
            self._open.discard(writer)
            writer.close()


async def _next_head(caller: asyncio.StreamReader, hub: _Link | None) -> Head:
    """The caller's next question. Raises ``EOFError`` when either end hangs up before it."""
    asking = asyncio.ensure_future(read_head(caller))
    waiting: set[asyncio.Future[Any]] = {asking}
    if hub is not None:
        # A hub says nothing unasked: what ends this wait is the end of the connection.
        waiting.add(asyncio.ensure_future(hub[0].read(1)))
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not asking.done():
            raise EOFError
        return asking.result()
    finally:
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


def _reset(*writers: asyncio.StreamWriter) -> None:
    """End connections the hard way: the other end's next read or write fails."""
    for writer in writers:
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
