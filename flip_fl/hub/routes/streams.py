"""One stream for all runs that a browser's tabs show: with HTTP/1.1 it has six connections to a hub."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from flip_fl.dashboard.delta import Again, Delta
from flip_fl.hub import database
from flip_fl.hub.access import Viewer, still_reads, visible_model
from flip_fl.hub.cursor import Cursor
from flip_fl.hub.roles import Principal
from flip_fl.hub.routes import live
from flip_fl.hub.routes.dependencies import live_status
from flip_fl.hub.watches import COMMENT_EVERY_S, News, Watches

router = APIRouter(tags=["live"])

MOST_RUNS = 50
# Each run comments on its own: of several at once one is told.
_SPOKE_S = COMMENT_EVERY_S / 2
_Runs = Annotated[
    list[Annotated[str, Query(pattern=r"^[0-9a-fA-F-]{36}@[0-9.]{1,64}$")]],
    Query(
        min_length=1,
        max_length=MOST_RUNS,
        description="a run and the place to go on from, each",
        examples=[["6f1f0c9b-0c4e-4f6b-9d0a-5f1f0c9b2e11@812.40960.0"]],
    ),
]


@router.get("/stream", response_class=StreamingResponse, responses={200: live.STREAM})
async def stream_of_runs(request: Request, who: Viewer, run: _Runs) -> StreamingResponse:
    """What is new in several runs, each after its own place, and then as it comes: one stream for a whole browser.

    The events are those of a run's own stream; their data is ``{"model": id, "news": …}``. ``refused`` tells of a run
    that is absent, with the status that its own stream would answer; the others go on. A comment every 15 s.
    """
    places = dict(_place(each) for each in run)
    refused = await run_in_threadpool(_refused, request, who, list(places))
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    told = _events(request, places, refused)
    return StreamingResponse(told, media_type="text/event-stream", headers=headers)


def _place(text: str) -> tuple[UUID, Cursor]:
    name, _, place = text.partition("@")
    found = Cursor.parse(place)
    try:
        if found is not None:
            return UUID(name), found
    except ValueError:
        pass
    raise HTTPException(400, "a run's place is not one that this hub has given")


def _refused(request: Request, who: Principal, models: list[UUID]) -> dict[UUID, int]:
    found: dict[UUID, int] = {}
    with database.reading(request.app.state.engine) as session:
        for model_id in models:
            try:
                visible_model(model_id, who, session)
                live_status(model_id, session)
            except HTTPException as error:
                found[model_id] = error.status_code
    return found


async def _events(request: Request, places: Mapping[UUID, Cursor], refused: Mapping[UUID, int]) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    for model_id, status in refused.items():
        yield _event("gone" if status == 400 else "refused", model_id, {"status": status})
    watched = live.watches(request)
    queue: asyncio.Queue[tuple[UUID, News | str] | None] = asyncio.Queue()
    tasks = [
        asyncio.create_task(_follow(watched, model_id, place, queue))
        for model_id, place in places.items()
        if model_id not in refused
    ]
    asked = spoke = time.monotonic()
    going = len(tasks)
    try:
        while going and (said := await queue.get()) is not None:
            model_id, news = said
            now = time.monotonic()
            if now - asked >= live.ASK_AGAIN_S:
                if not await still_reads(request):
                    return
                asked = now
            if not isinstance(news, str):
                spoke = now
                going -= not isinstance(news, Delta)
                yield _news(model_id, news)
            elif now - spoke >= _SPOKE_S:
                spoke = now
                yield ":\n\n"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow(
    watched: Watches, model_id: UUID, place: Cursor, queue: asyncio.Queue[tuple[UUID, News | str] | None]
) -> None:
    """What comes of one run, into the queue; None where it is to be asked for anew, and then all of them are."""
    over = False
    try:
        async for news in watched.follow(model_id, place):
            over = not isinstance(news, Delta | str)
            await queue.put((model_id, news))
    finally:
        if not over:
            queue.put_nowait(None)


def _news(model_id: UUID, news: News) -> str:
    match news:
        case Delta():
            return _event("delta", model_id, news.model_dump_json(), news.cursor)
        case Again():
            return _event("again", model_id, {})
        case None:
            return _event("gone", model_id, {"status": 400})


def _event(kind: str, model_id: UUID, news: str | dict[str, Any], cursor: str | None = None) -> str:
    place = "" if cursor is None else f"id: {model_id}@{cursor}\n"
    said = news if isinstance(news, str) else json.dumps(news)
    return f'event: {kind}\n{place}data: {{"model":"{model_id}","news":{said}}}\n\n'
