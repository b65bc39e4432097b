"""Both services of a trust as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from flip_fl import __version__
from flip_fl.errors import FlipError
from flip_fl.services.body_limit import BodyLimit
from flip_fl.services.last_net import LastNet
from flip_fl.settings import TrustSettings
from flip_fl.trust import files, names
from flip_fl.trust.cohort import Rule
from flip_fl.trust.databases import open_database
from flip_fl.trust.downloads import Downloads
from flip_fl.trust.envelope import Envelope
from flip_fl.trust.refusal import Refusal, unexpected
from flip_fl.trust.register import Register
from flip_fl.trust.routes import routes
from flip_fl.trust.selection import QUERY_TIMEOUT_S, Database
from flip_fl.trust.uploads import Uploads

MAX_BODY_BYTES = 1 << 20


@dataclass(frozen=True)
class Services:
    """What the routes use; ``app.state.services``."""

    database: Database
    register: Register
    envelope: Envelope
    rule: Rule
    frozen: bool
    downloads: Downloads
    uploads: Uploads


def create_app(settings: TrustSettings, *, query_timeout_s: float = QUERY_TIMEOUT_S) -> Starlette:
    """The services for these settings: each route behind the trust's key, and an open ``/health``.

    Raises ``FlipError`` E0950 for an address that is no database's. ``check`` says whether the rest is there.
    """
    database = open_database(settings.database_url, timeout_s=query_timeout_s)
    archive, images_root = settings.archive.resolve(), settings.images_root.resolve()
    frozen = settings.cohort == "frozen"
    app = Starlette(
        routes=[Route("/health", _health, methods=["GET"]), *routes()],
        middleware=[
            Middleware(LastNet, detail=unexpected().detail, told=lambda _: "unexpected"),
            Middleware(BodyLimit, max_bytes=MAX_BODY_BYTES),
        ],
        exception_handlers={Refusal: _refuse},
        lifespan=_lifespan,
    )
    app.state.settings = settings
    app.state.services = Services(
        database=database,
        register=Register(database, frozen=frozen),
        envelope=Envelope(settings.envelope_key.get_secret_value()),
        rule=Rule(settings.threshold, settings.threshold_counts == "subjects"),
        frozen=frozen,
        downloads=Downloads(archive, images_root),
        uploads=Uploads(archive, images_root),
    )
    return app


def check(settings: TrustSettings) -> None:
    """Raises ``FlipError`` unless the database (E0950) and both folders (E0952) can be used."""
    for name, folder in (("FLIP_TRUST_ARCHIVE", settings.archive), ("IMAGES_ROOT", settings.images_root)):
        if not folder.is_dir():
            raise FlipError("E0952", name=name, folder=folder)
    database = open_database(settings.database_url)
    try:
        database.check()
    finally:
        database.close()


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    settings: TrustSettings = app.state.settings
    await run_in_threadpool(_sweep, settings.archive, settings.images_root)
    try:
        yield
    finally:
        app.state.services.database.close()


def _sweep(*folders: Path) -> None:
    for folder in folders:
        files.sweep(folder / names.PARTIAL)


async def _health(_request: Request) -> Response:
    """That these are a trust's services, and which version; nothing about what they hold."""
    return JSONResponse({"service": "flip-trust", "status": "ok", "version": __version__})


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return JSONResponse({"detail": error.detail}, status_code=error.status)
