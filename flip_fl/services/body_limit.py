"""A bound on what a request may carry, kept before anything reads it."""

from __future__ import annotations

from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_DIGITS = 12


class _TooLarge(Exception):
    """More came than a body may hold."""


class _Counter:
    """Counts what is received, and holds back the answer of an app that mistakes the excess for a broken body."""

    def __init__(self, receive: Receive, send: Send, max_bytes: int) -> None:
        self._receive = receive
        self._send = send
        self._left = max_bytes
        self.answered = False

    @property
    def exceeded(self) -> bool:
        return self._left < 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self.exceeded:
            raise _TooLarge
        return message

    async def send(self, message: Message) -> None:
        if self.exceeded and not self.answered:
            return
        self.answered = True
        await self._send(message)


class BodyLimit:
    """ASGI middleware: 413 for a body of more than ``max_bytes``, whether its length was declared or not."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or len(declared) > _MAX_DIGITS or int(declared) > self._max_bytes:
            await self._refuse(scope, receive, send)
            return
        counter = _Counter(receive, send, self._max_bytes)
        with suppress(_TooLarge):
            await self._app(scope, counter.receive, counter.send)
        if counter.exceeded and not counter.answered:
            await self._refuse(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = JSONResponse(
            {"detail": f"A body may hold at most {self._max_bytes} bytes."},
            status_code=413,
            headers={"Connection": "close"},
        )
        await response(scope, receive, send)
