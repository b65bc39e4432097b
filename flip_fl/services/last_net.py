"""The last net: an error that nobody expected is a 500 and one line in the log, without its text.

A server logs what falls out of an application with its traceback, and a driver's text in it may quote a statement, an
address, a header or a row.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_logger = logging.getLogger(__name__)


class LastNet:
    """ASGI middleware: whatever the application raises becomes a 500 with ``detail``; an answer that had begun is cut.

    ``told`` is what the log's line begins with, before the types and places: a request's path may be private.
    """

    def __init__(self, app: ASGIApp, *, detail: str, told: Callable[[Scope], str]) -> None:
        self._app = app
        self._detail = detail
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            _logger.error("%s %s", self._told(scope), _places(error))
            if begun:
                # The server cuts the connection: half an answer must not pass for a whole one.
                raise RuntimeError("an answer was cut off") from None
            await JSONResponse({"detail": self._detail}, status_code=500)(scope, receive, send)


def _places(error: BaseException) -> str:
    """The types and places of an exception and of those behind it."""
    parts: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(parts) < 5:
        frames = traceback.extract_tb(seen.__traceback__)[-8:]
        places = " < ".join(f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(frames))
        parts.append(f"{type(seen).__name__} at {places}")
        seen = seen.__cause__ or seen.__context__
    return "; caused by ".join(parts)
