"""How long a service waits for somebody who sends slowly: not for ever, or a few hundred of them would hold it up.

The server's own time-out begins after the first answer; before it a connection may stay open and say nothing.
"""

from __future__ import annotations

import asyncio
from asyncio.events import TimerHandle
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADERS_S = 10.0
BODY_S = 60.0
MAX_HEADER_BYTES = 64 << 10


class PatientProtocol(HttpToolsProtocol):
    """A connection that must have sent its request's headers after ``HEADERS_S``, in ``MAX_HEADER_BYTES`` at most."""

    headers_s = HEADERS_S

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._deadline: TimerHandle | None = None
        self._header_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_no_longer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        # Of a request that follows on a connection, the first byte may be all that comes.
        self._wait()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._wait_no_longer()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self.transport.is_closing():
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.transport.is_closing():
            super().on_message_complete()

    def _count(self, *parts: bytes) -> None:
        self._header_bytes += sum(map(len, parts))
        if self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self._refuse(b"431 Request Header Fields Too Large", "the headers are too large")

    def _wait(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.headers_s, self._too_slow)

    def _wait_no_longer(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self._refuse(b"408 Request Timeout", "a request was not sent in time")

    def _refuse(self, status: bytes, why: str) -> None:
        self.logger.warning("a connection was closed: %s", why)
        self.transport.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()


class BodyDeadline:
    """ASGI middleware: 408 for a body that is not there ``seconds`` after its headers."""

    def __init__(self, app: ASGIApp, seconds: float = BODY_S) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        deadline: float | None = loop.time() + self._seconds
        answered = False

        async def receive_in_time() -> Message:
            nonlocal deadline
            # Once the body is there, what is waited for is the end of the connection.
            if deadline is None:
                return await receive()
            async with asyncio.timeout_at(deadline):
                message = await receive()
            if not message.get("more_body", False):
                deadline = None
            return message

        async def send_on(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        try:
            await self._app(scope, receive_in_time, send_on)
        except TimeoutError:
            if answered or deadline is None:
                raise
            refusal = JSONResponse(
                {"detail": "The body was not sent in time."}, status_code=408, headers={"Connection": "close"}
            )
            await refusal(scope, receive, send)
