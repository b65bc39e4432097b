"""Serving the hub on 127.0.0.1."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import uvicorn

from flip_fl.errors import FlipError
from flip_fl.hub import database
from flip_fl.hub.app import create_app
from flip_fl.settings import HubSettings

HOST = "127.0.0.1"
GRACE_S = 5
BACKLOG = 512


def serve(settings: HubSettings, *, port: int = 0, port_file: Path | None = None) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT, then finish what is in flight (at most 5 s) and return.

    ``port`` 0 is a free one; ``port_file`` gets the bound port once requests are answered. Only until people can
    log in, no other address can be chosen. Raises ``FlipError`` E1001 for a database that cannot be used and E1006
    for a port that cannot be had.
    """
    engine = database.open_engine(settings.database_url)
    try:
        # Asked here, because what a lifespan raises is only logged.
        database.require_current_schema(engine)
    finally:
        engine.dispose()
    listener = _listen(port)
    config = uvicorn.Config(
        create_app(settings),
        workers=1,
        ws="none",
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    with listener:
        _Server(config, port_file).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that says in a file when it is ready."""

    def __init__(self, config: uvicorn.Config, port_file: Path | None) -> None:
        super().__init__(config)
        self._port_file = port_file

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._port_file is not None and sockets and not self.should_exit:
            # Renamed into place, so that a reader never finds half a number.
            draft = self._port_file.with_name(f"{self._port_file.name}.{os.getpid()}")
            draft.write_text(f"{sockets[0].getsockname()[1]}\n")
            draft.replace(self._port_file)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise FlipError("E1006", host=HOST, port=port, problem=getattr(error, "strerror", None) or error) from error
    return listener
