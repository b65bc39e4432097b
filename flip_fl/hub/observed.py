"""Every request measured, and logged as one line of JSON: never its body, its query, or what its headers hold."""

from __future__ import annotations

import json
import logging
import sys
import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flip_fl.hub.meters import Meters

REQUESTS = "flip_fl.hub.requests"
_logger = logging.getLogger(REQUESTS)
_MAX_PATH = 200
# What is not a route of the hub is one to a meter: whoever tries a million paths must not fill its memory.
_NO_ROUTE = "(none)"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"})


class Observed:
    """ASGI middleware around everything else."""

    def __init__(self, app: ASGIApp, meters: Meters) -> None:
        self._app = app
        self._meters = meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, sent = 0, 0

        async def observe(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                sent += len(message.get("body", b""))
            await send(message)

        self._meters.open.inc()
        try:
            await self._app(scope, receive, observe)
        finally:
            self._meters.open.dec()
            self._note(scope, status, sent, time.perf_counter() - begun)

    def _note(self, scope: Scope, status: int, sent: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = _route(scope)
        self._meters.requests.labels(method, route, str(status)).inc()
        self._meters.seconds.labels(method, route).observe(seconds)
        if _logger.isEnabledFor(logging.INFO):
            facts = {
                "method": method,
                "route": route,
                "path": scope["path"][:_MAX_PATH],
                "status": status,
                "bytes": sent,
                "ms": round(seconds * 1000, 1),
            }
            _logger.info("request", extra={"facts": facts})


def _route(scope: Scope) -> str:
    """The path with the names of its parameters: what the router has matched knows only its own part of it."""
    if scope.get("endpoint") is None:
        return _NO_ROUTE
    names = {str(value): f"{{{name}}}" for name, value in scope.get("path_params", {}).items()}
    return "/".join(names.get(part, part) for part in scope["path"].split("/"))


class JsonLines(logging.Formatter):
    """One JSON object a line. Of an exception only its type and place: its text may quote what was sent."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "facts", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                line["raised_at"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        return json.dumps(line)


def log_json() -> None:
    """From now on all that this process logs is JSON on stderr, one line for each request too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    _logger.setLevel(logging.INFO)
    # They have handlers of their own, which print in another form.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
