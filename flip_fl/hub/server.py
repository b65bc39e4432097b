"""Serving the hub."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
from sqlalchemy.orm import configure_mappers

from flip_fl.errors import FlipError
from flip_fl.hub import database
from flip_fl.hub.app import create_app
from flip_fl.hub.observed import log_json
from flip_fl.services import serving
from flip_fl.settings import HubSettings


def serve(settings: HubSettings, *, port: int = 0, port_file: Path | None = None) -> None:
    """Serve on the settings' host until SIGTERM or SIGINT, then finish what is in flight (at most 5 s) and return.

    ``port`` 0 is a free one; ``port_file`` gets the bound port once requests are answered. Other machines reach
    it through a proxy that speaks TLS. Raises ``FlipError`` E1001 for a database that cannot be used and E1006
    for a port that cannot be had.
    """
    engine = database.open_engine(settings.database_url)
    try:
        # Asked here, because what a lifespan raises is only logged.
        database.require_current_schema(engine)
    finally:
        engine.dispose()
    if settings.log == "json":
        log_json()
    app = create_app(settings)
    _make_ready()
    host = str(settings.host)
    listener = serving.listen(port, lambda problem: FlipError("E1006", host=host, port=port, problem=problem), host)
    serving.serve(app, listener, port_file)


def _make_ready() -> None:
    """Do once what the first visitor would otherwise wait for, 0.2 s in all."""
    configure_mappers()
    # The first of these loads a part of numpy.
    np.unique(np.empty(0))
    # Python looks for cycles after 700 new objects; the story of a big run is a million, none of them in one.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)
