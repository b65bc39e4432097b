"""The hub as an ASGI application."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, InternalError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.concurrency import run_in_threadpool

from flip_fl import __version__
from flip_fl.dashboard import assets
from flip_fl.errors import FlipError
from flip_fl.hub import database, openapi, presence, tallies
from flip_fl.hub.access import viewer
from flip_fl.hub.headers import SecurityHeaders
from flip_fl.hub.meters import Meters
from flip_fl.hub.observed import Observed
from flip_fl.hub.points import PlotCache
from flip_fl.hub.refusals import public_errors
from flip_fl.hub.routes import (
    credentials,
    fl,
    lists,
    live,
    login,
    manage,
    operations,
    pages,
    plots,
    read,
    slots,
    streams,
)
from flip_fl.hub.service_keys import KeyRing
from flip_fl.hub.shared import Shared
from flip_fl.hub.silence import SilenceRule
from flip_fl.hub.sweep import sweep
from flip_fl.hub.tables import utc_now
from flip_fl.hub.throttle import Throttle
from flip_fl.services.body_limit import BodyLimit
from flip_fl.services.last_net import LastNet
from flip_fl.services.patience import BodyDeadline
from flip_fl.settings import HubSettings
from flip_fl.wire import MAX_BATCH_BYTES

_logger = logging.getLogger(__name__)

# The envelope around a full batch is small; a traceback posted by itself may be as long as a batch.
MAX_BODY_BYTES = MAX_BATCH_BYTES + (64 << 10)
_RETRY_AFTER_S = "2"
# Unknown; differs from what is there; none is free; over already.
_STATUS_OF = {"E1002": 404, "E1003": 409, "E1004": 409, "E1008": 409}


def create_app(settings: HubSettings) -> FastAPI:
    """The hub for these settings: routes under ``/api``, each behind a token or the service key (see ``access``), the
    login page, and an open ``/health``.

    The database must have been initialised: starting refuses with ``FlipError`` E1001 if it was not.
    """
    app = FastAPI(
        title="FLIP hub", version=__version__, lifespan=_lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.settings = settings
    app.state.engine = database.open_engine(settings.database_url)
    app.state.service_keys = KeyRing(settings.service_key_hash)
    app.state.throttle = Throttle(settings.wrong_keys_per_minute)
    app.state.plots = PlotCache()
    app.state.stories = Shared()
    app.state.meters = Meters()
    app.add_middleware(BodyLimit, max_bytes=MAX_BODY_BYTES)
    app.add_middleware(BodyDeadline)
    app.add_middleware(LastNet, detail="Internal error.", told=lambda scope: f"{scope['method']} {scope['path']}:")
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(RequestValidationError, _refuse_input)
    app.add_exception_handler(FlipError, _refuse_by_rule)
    for unwell in (OperationalError, InternalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(unwell, _refuse_busy)
    for path in ("/health", "/api/health"):
        app.add_api_route(path, _health, methods=["GET"], tags=["health"])
    api = APIRouter(prefix="/api")
    for part in (fl, plots, read, live, streams, lists, manage, slots, credentials, login):
        api.include_router(part.router)
    api.add_api_route(
        "/openapi.json", _openapi, methods=["GET"], include_in_schema=False, dependencies=[Depends(viewer)]
    )
    app.include_router(api)
    app.state.assets = assets.served()
    # The pages, and at the root what orchestrators and Prometheus look for there.
    for router in (login.pages, pages.router, operations.router):
        app.include_router(router)
    openapi.describe(app)
    # Added last, it stands around all others.
    app.add_middleware(Observed, meters=app.state.meters)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    await run_in_threadpool(database.require_current_schema, app.state.engine)
    # Before the first request: a hub that was away must not call silent who could not reach it.
    await run_in_threadpool(look_after, app.state.engine, app.state.settings)
    keeper = asyncio.create_task(_keep(app))
    try:
        yield
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        app.state.engine.dispose()


async def _keep(app: FastAPI) -> None:
    while True:
        await asyncio.sleep(presence.NOTE_EVERY.total_seconds())
        await run_in_threadpool(look_after, app.state.engine, app.state.settings)


def look_after(engine: Engine, settings: HubSettings) -> None:
    """What a hub does every few seconds: note that it is there, end silent runs if an operator wants that, and count.

    A database that does not answer is logged; there is a next time.
    """
    error_after = SilenceRule.of(settings).error_after
    try:
        with database.writing(engine) as session:
            presence.note(session, utc_now())
            ended = [] if error_after is None else sweep(session, error_after, utc_now())
            tallies.roll_recent(session)
    except SQLAlchemyError as error:
        _logger.error("the hub could not look after its runs (%s)", type(error).__name__)
        return
    for run in ended:
        _logger.warning("model %s was ended as failed: no news from its FL server", run.model_id)


def _health() -> dict[str, str]:
    """That this is a FLIP hub, and which version; nothing about what it holds."""
    return {"service": "flip-hub", "status": "ok", "version": __version__}


def _openapi(request: Request) -> dict[str, Any]:
    app: FastAPI = request.app
    return app.openapi()


async def _refuse_input(_request: Request, error: Exception) -> Response:
    """422 with place and reason. The default answer quotes the input, which breaks on a NaN and leaks the rest."""
    errors = error.errors() if isinstance(error, RequestValidationError) else []
    return JSONResponse({"detail": public_errors(errors)}, status_code=422)


async def _refuse_by_rule(_request: Request, error: Exception) -> Response:
    """What the catalogue says, as a status of HTTP."""
    code = error.code if isinstance(error, FlipError) else ""
    what = error.what if isinstance(error, FlipError) else "refused"
    return JSONResponse({"detail": what}, status_code=_STATUS_OF.get(code, 400))


async def _refuse_busy(request: Request, error: Exception) -> Response:
    """503 while the database cannot be written: a sender keeps what it has and comes again."""
    _logger.error("%s %s: the database did not answer (%s)", request.method, request.url.path, type(error).__name__)
    return JSONResponse(
        {"detail": "The database is busy or cannot be reached."},
        status_code=503,
        headers={"Retry-After": _RETRY_AFTER_S},
    )
