"""The door of a SuperLink: what nodes need goes through, everything else is refused.

A SuperLink serves everybody at one port: whoever reaches it may register nodes, start jobs and fetch tasks without a
credential (1.41). So it listens on its own machine alone, and sites reach this instead.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

# What a SuperNode asks for, each with its key's signature.
OPEN = ("/v1/fleet/",)
HEALTH = "/health"
_METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"]
# They belong to one connection (RFC 9110, 7.6.1).
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"})


class Watch(Protocol):
    """Who looks at what passes. It must not wait."""

    def bars(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers is answered 401."""
        ...

    def saw(self, path: str, headers: Mapping[str, str], status: int, address: str | None) -> None:
        """A request from ``address`` was answered by the SuperLink with ``status``."""
        ...


def create_gate(superlink: str, root: Path, watch: Watch | None = None) -> Starlette:
    """The gate before the SuperLink at ``superlink`` (https://…), whose certificate the CA in ``root`` has issued.

    Bodies pass in pieces, in both directions. 403 for what nodes do not need, 502 while the SuperLink is away.
    """
    trusted = ssl.create_default_context(cafile=str(root))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=superlink, verify=trusted, timeout=None, trust_env=False) as client:
            app.state.client, app.state.watch = client, watch
            yield

    return Starlette(routes=[Route("/{path:path}", _pass_on, methods=_METHODS)], lifespan=lifespan)


async def _pass_on(request: Request) -> Response:
    path = request.scope["raw_path"].decode("ascii", "replace")
    # As it was sent: a path that is written in another way is no path of a node's.
    if not (path == HEALTH or path.startswith(OPEN)) or "/." in path or "%" in path:
        return JSONResponse({"detail": "not for nodes"}, status_code=403)
    watch: Watch | None = request.app.state.watch
    if watch is not None and watch.bars(request.headers):
        # What a node takes for its end: with 403 it would stay, and ask for nothing more.
        return JSONResponse({"detail": "this site's certificate has expired"}, status_code=401)
    client: httpx.AsyncClient = request.app.state.client
    headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_BY_HOP]
    url = httpx.URL(path=path, query=request.scope["query_string"])
    asked = client.build_request(request.method, url, headers=headers, content=request.stream())
    try:
        answer = await client.send(asked, stream=True)
    except httpx.TransportError:
        return JSONResponse({"detail": "the SuperLink does not answer"}, status_code=502)

    if watch is not None:
        watch.saw(path, request.headers, answer.status_code, request.client.host if request.client else None)

    async def pieces() -> AsyncIterator[bytes]:
        try:
            async for piece in answer.aiter_raw():
                yield piece
        finally:
            await answer.aclose()

    response = StreamingResponse(pieces(), status_code=answer.status_code)
    response.raw_headers = [
        (name.lower(), value) for name, value in answer.headers.raw if name.lower().decode() not in _HOP_BY_HOP
    ]
    return response
