"""Serving a trust's services on 127.0.0.1."""

from __future__ import annotations

from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.services import serving
from flip_fl.settings import TrustSettings
from flip_fl.trust.app import check, create_app


def serve(settings: TrustSettings, *, port: int = 0, port_file: Path | None = None) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT, then finish what is in flight (at most 5 s) and return.

    ``port`` 0 is a free one; ``port_file`` gets the bound port once requests are answered. Raises ``FlipError`` E0950
    for a database that cannot be used, E0952 for a folder that is not there, and E0951 for a port that cannot be had.
    """
    # Asked here, because what a lifespan raises is only logged.
    check(settings)
    app = create_app(settings)
    listener = serving.listen(port, lambda problem: FlipError("E0951", host=serving.HOST, port=port, problem=problem))
    serving.serve(app, listener, port_file)
