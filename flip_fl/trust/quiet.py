"""The last net: an error that nobody expected is a 500 and one line in the log, without its text and without frames.

A server logs what falls out of an application with its traceback, and a driver's text in it may quote rows.
"""

from __future__ import annotations

import logging
import traceback

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flip_fl.trust.refusal import unexpected

_logger = logging.getLogger(__name__)


class Quiet:
    """ASGI middleware: whatever the application raises becomes a 500; an answer that had begun is cut off."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

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
            place = traceback.extract_tb(error.__traceback__)[-1]
            _logger.error("unexpected %s at %s:%s", type(error).__name__, place.filename, place.lineno)
            if begun:
                raise RuntimeError("an answer was cut off") from None
            answer = unexpected()
            await JSONResponse({"detail": answer.detail}, status_code=answer.status)(scope, receive, send)
