"""As much of HTTP/1.1 as is needed to hand a message on, half of it, or another one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus

CHUNK = 1 << 16
_END_OF_LINE = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_PAGE = b"<!DOCTYPE html><title>Welcome</title><p>Please log in."
_WITHOUT_BODY = (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)


@dataclass(frozen=True)
class Head:
    """A request's or an answer's first line and its header fields, in their order."""

    start: str
    fields: tuple[tuple[str, str], ...]

    @property
    def method(self) -> str:
        """Of a request."""
        return self.start.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """Of a request, as it was sent."""
        return self.start.split(" ")[1]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ")[1])

    def get(self, name: str) -> str:
        """The field's value; empty where there is none."""
        return next((value for known, value in self.fields if known.lower() == name.lower()), "")

    def without(self, name: str) -> Head:
        return replace(self, fields=tuple(field for field in self.fields if field[0].lower() != name.lower()))

    def shifted(self, seconds: float) -> Head:
        """As a hub whose clock is ``seconds`` ahead would have written it."""
        date = self.get("Date")
        if not seconds or not date:
            return self
        told = formatdate(parsedate_to_datetime(date).timestamp() + seconds, usegmt=True)
        return replace(self.without("Date"), fields=(*self.without("Date").fields, ("Date", told)))

    def encoded(self) -> bytes:
        lines = (self.start, *(f"{name}: {value}" for name, value in self.fields), "", "")
        return "\r\n".join(lines).encode("latin-1")

    @property
    def chunked(self) -> bool:
        return self.get("Transfer-Encoding").lower().endswith("chunked")

    @property
    def length(self) -> int | None:
        """Bytes of the body, where that is said."""
        text = self.get("Content-Length")
        return int(text) if text else None

    @property
    def closes(self) -> bool:
        """Whether the connection ends with this message."""
        return self.get("Connection").lower() == "close" or self.start.endswith("HTTP/1.0")


async def read_head(reader: asyncio.StreamReader) -> Head:
    """The next head. Raises ``EOFError`` where none comes any more and ``ValueError`` for what is none."""
    lines = (await reader.readuntil(_END_OF_HEAD)).decode("latin-1").rstrip("\r\n").split("\r\n")
    fields = (line.partition(":") for line in lines[1:])
    head = Head(lines[0], tuple((name, value.strip()) for name, _, value in fields))
    if len(head.start.split(" ")) < 2:
        raise ValueError("no HTTP")
    return head


def request_body(head: Head, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of a request as it is on the wire, piece by piece."""
    return _pieces(head, reader) if head.chunked or head.length else _nothing()


def answer_body(head: Head, method: str, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The body of the answer to a request with ``method`` as it is on the wire, piece by piece."""
    if method == "HEAD" or head.status in _WITHOUT_BODY or head.status < HTTPStatus.OK or head.length == 0:
        return _nothing()
    return _pieces(head, reader)


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All of a body at once."""
    return b"".join([piece async for piece in pieces])


def made_answer(
    status: int,
    *,
    page: bool = False,
    detail: str = "made up",
    retry_after_s: float | None = None,
    as_date: bool = False,
    clock_s: float = 0.0,
    close: bool = False,
) -> bytes:
    """An answer that no hub gave: JSON with ``detail`` as our hub words its refusals, or a web ``page``.

    ``retry_after_s`` is written in seconds, or as the date it stands for on a clock that is ``clock_s`` ahead.
    """
    body = (
        b"<!DOCTYPE html><title>Welcome</title><p>Please log in." if page else json.dumps({"detail": detail}).encode()
    )
    now = time.time() + clock_s
    fields = [
        ("Date", formatdate(now, usegmt=True)),
        ("Content-Type", "text/html" if page else "application/json"),
        ("Content-Length", str(len(body))),
    ]
    if retry_after_s is not None:
        told = formatdate(now + retry_after_s, usegmt=True) if as_date else f"{retry_after_s:.0f}"
        fields.append(("Retry-After", told))
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        fields.append(("Location", "http://127.0.0.1:9/login"))
    if close:
        fields.append(("Connection", "close"))
    return Head(f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", tuple(fields)).encoded() + body


async def _pieces(head: Head, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    if head.chunked:
        size = 1
        while size:
            line = await reader.readuntil(_END_OF_LINE)
            size = int(line.partition(b";")[0], 16)
            yield line + (await reader.readexactly(size + 2) if size else b"")
        while (line := await reader.readuntil(_END_OF_LINE)) != _END_OF_LINE:
            yield line
        yield line
    elif head.length is not None:
        left = head.length
        while left:
            piece = await reader.read(min(left, CHUNK))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            yield piece
    else:
        while piece := await reader.read(CHUNK):
            yield piece


async def _nothing() -> AsyncIterator[bytes]:
    none: tuple[bytes, ...] = ()
    for piece in none:
        yield piece
