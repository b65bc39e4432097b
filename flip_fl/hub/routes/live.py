"""A run as it goes on: a stream of what is new, the same by asking again, and older lines of the activity."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from flip_fl.dashboard.delta import Again, Delta
from flip_fl.dashboard.story import FeedRow
from flip_fl.hub import database
from flip_fl.hub.access import Viewer, still_reads, visible_model
from flip_fl.hub.cursor import Cursor
from flip_fl.hub.feed import log_rows
from flip_fl.hub.roles import Principal
from flip_fl.hub.routes.dependencies import Reading, live_status, missing
from flip_fl.hub.silence import SilenceRule
from flip_fl.hub.story import feed_row
from flip_fl.hub.watches import News, Watches

router = APIRouter(prefix="/model/{model_id}", tags=["live"])

# How long whoever is let go may go on reading what was open.
ASK_AGAIN_S = 10.0
STREAM: dict[str, Any] = {
    "description": "Server-sent events; the id of each is the place to resume at.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_Place = Annotated[str, Query(max_length=64, description="a story's or a delta's cursor", examples=["812.40960.0"])]


class FeedPage(BaseModel):
    """Lines of the activity, oldest first; ``more`` when there are older ones still."""

    rows: list[FeedRow]
    more: bool


@router.get("/stream", response_class=StreamingResponse, responses={200: STREAM})
async def stream(model_id: UUID, request: Request, who: Viewer, since: _Place = "") -> StreamingResponse:
    """What is new in the run after ``since`` (or after the header ``Last-Event-ID``), and then as it comes.

    Events: ``delta`` carries a delta as ``/changes`` answers it, ``again`` asks to read the story anew, ``gone``
    ends a run that was deleted. A comment every 15 s. 404 if absent, 400 if deleted.
    """
    place = _place(request.headers.get("Last-Event-ID") or since)
    await _require(model_id, request, who)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    told = _events(request, model_id, place)
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


@router.get("/changes")
async def read_changes(model_id: UUID, request: Request, who: Viewer, since: _Place) -> Delta | Again:
    """What is new in the run after ``since``, for who cannot keep a stream open. 404 if absent, 400 if deleted."""
    place = _place(since)
    await _require(model_id, request, who)
    news = await watches(request).changes(model_id, place)
    if news is None:
        raise missing(model_id)
    return news


@router.get("/feed")
def read_feed(
    model_id: UUID,
    session: Reading,
    who: Viewer,
    before: Annotated[int | None, Query(ge=1, le=2**62, description="the id of a line; older ones are told")] = None,
    count: Annotated[int, Query(ge=1, le=2000)] = 1000,
) -> FeedPage:
    """The newest ``count`` lines of the activity, or of those before a line. 404 if absent, 400 if deleted."""
    visible_model(model_id, who, session)
    live_status(model_id, session)
    rows = log_rows(model_id, session, before=before, newest=count + 1)
    return FeedPage(rows=[feed_row(row) for row in rows[-count:]], more=len(rows) > count)


def watches(request: Request) -> Watches:
    """The app's watches, made at the first question: an event loop must be there."""
    state = request.app.state
    if getattr(state, "watches", None) is None or state.watches_of is not state.engine:
        state.watches = Watches(state.engine, SilenceRule.of(state.settings))
        state.watches_of = state.engine
        state.leave = state.watches.leave
    found: Watches = state.watches
    return found


async def _require(model_id: UUID, request: Request, who: Principal) -> None:
    def look() -> None:
        with database.reading(request.app.state.engine) as session:
            visible_model(model_id, who, session)
            live_status(model_id, session)

    await run_in_threadpool(look)


def _place(text: str) -> Cursor:
    place = Cursor.parse(text) if text else Cursor(0, 0, 0)
    if place is None:
        raise HTTPException(400, "the place to go on from is not one that this hub has given")
    return place


async def _events(request: Request, model_id: UUID, place: Cursor) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    asked = time.monotonic()
    # Something comes at least as often as a comment.
    async for news in watches(request).follow(model_id, place):
        if time.monotonic() - asked >= ASK_AGAIN_S:
            if not await still_reads(request):
                return
            asked = time.monotonic()
        yield ":\n\n" if isinstance(news, str) else _event(news)


def _event(news: News) -> str:
    match news:
        case Delta():
            return f"event: delta\nid: {news.cursor}\ndata: {news.model_dump_json()}\n\n"
        case Again():
            return "event: again\ndata: {}\n\n"
        case None:
            return "event: gone\ndata: {}\n\n"
