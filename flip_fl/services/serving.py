"""Serving an application in this process, on 127.0.0.1 unless told otherwise, until it is told to end."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from flip_fl.errors import FlipError
from flip_fl.services.patience import PatientProtocol

HOST = "127.0.0.1"
GRACE_S = 5
BACKLOG = 512
# Below the 1024 files that a process may have open on many systems: more are answered 503, and the rest is served.
MAX_CONNECTIONS = 800


def listen(port: int, refused: Callable[[object], FlipError], host: str = HOST) -> socket.socket:
    """A listening socket on ``host``; ``port`` 0 is a free one. Raises what ``refused`` makes of the reason."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise refused(getattr(error, "strerror", None) or error) from error
    return listener


def serve(app: ASGIApp, listener: socket.socket, port_file: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is in flight (at most 5 s) and return; closes ``listener``.

    ``port_file`` gets the bound port once requests are answered.
    """
    config = uvicorn.Config(
        app,
        workers=1,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        http=PatientProtocol,
        limit_concurrency=MAX_CONNECTIONS,
    )
    with listener:
        Server(config, port_file).run(sockets=[listener])


class Server(uvicorn.Server):
    """A server that says in a file when it is ready, and to its application when it leaves.

    An application whose answers do not end by themselves has ``state.leave``, which ends them.
    """

    def __init__(self, config: uvicorn.Config, port_file: Path | None = None) -> None:
        super().__init__(config)
        self._port_file = port_file

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        leave = getattr(getattr(self.config.app, "state", None), "leave", None)
        if leave is not None:
            leave()
        await super().shutdown(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._port_file is not None and sockets and not self.should_exit:
            # Renamed into place, so that a reader never finds half a number.
            draft = self._port_file.with_name(f"{self._port_file.name}.{os.getpid()}")
            draft.write_text(f"{sockets[0].getsockname()[1]}\n")
            draft.replace(self._port_file)
