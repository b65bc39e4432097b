"""What operators ask of a hub: whether it can work, and what it measures of itself."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Request, Response

from flip_fl.errors import FlipError
from flip_fl.hub import database
from flip_fl.hub.access import Operator, Viewer
from flip_fl.hub.meters import CONTENT_TYPE, Meters
from flip_fl.hub.routes.dependencies import Rule

router = APIRouter(tags=["operations"])
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


@router.get("/ready", responses={503: {"description": "It cannot work: the database does not answer or does not fit."}})
def ready(request: Request, who: Viewer) -> dict[str, str]:
    """That this hub can work: its database answers and has this version's tables. 503 otherwise."""
    try:
        database.require_current_schema(request.app.state.engine)
    except FlipError as error:
        # The text names the database's address, which is not for everybody who may look at a run.
        raise HTTPException(503, f"The database cannot be used ({error.code}).", headers={"Retry-After": "2"}) from None
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses={200: {"content": _TEXT}})
def read_meters(request: Request, who: Operator, rule: Rule) -> Response:
    """Requests, events, models, silent runs, connections and size, in Prometheus's text form."""
    meters: Meters = request.app.state.meters
    return Response(meters.text(request.app.state.engine, rule), media_type=CONTENT_TYPE)
