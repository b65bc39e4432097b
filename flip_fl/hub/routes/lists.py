"""The lists that the hub's pages show: runs, live too, and slots."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from flip_fl.hub import database, overview
from flip_fl.hub.access import Viewer, still_reads
from flip_fl.hub.overview import RunList, SlotList, State, Wanted
from flip_fl.hub.routes import live
from flip_fl.hub.routes.dependencies import Reading, Rule
from flip_fl.hub.silence import SilenceRule
from flip_fl.hub.watches import COMMENT_EVERY_S, STREAM_S

router = APIRouter(tags=["pages"])

_LOOK_EVERY_S = 2.0
_STREAM: dict[str, Any] = {
    "description": "Server-sent events `runs`: the list anew whenever it is another one.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
_Name = Annotated[str | None, Query(max_length=255)]


def _filters(
    who: Viewer,
    state: State | None = None,
    project: _Name = None,
    trust: _Name = None,
    text: _Name = None,
    count: Annotated[int, Query(ge=1, le=200)] = 50,
) -> Wanted:
    return Wanted(who.projects, state, project, trust, text, None, count)


_Filters = Annotated[Wanted, Depends(_filters)]


@router.get("/runs")
def read_runs(
    session: Reading,
    rule: Rule,
    wanted: _Filters,
    before: Annotated[UUID | None, Query(description="the id of a run; older ones are told")] = None,
) -> RunList:
    """The newest runs first, of the projects that one may see, each with its state in words."""
    return overview.runs(session, replace(wanted, before=before), rule)


@router.get("/runs/stream", response_class=StreamingResponse, responses={200: _STREAM})
async def stream_runs(request: Request, rule: Rule, wanted: _Filters) -> StreamingResponse:
    """The list of ``/runs`` as it changes; a comment every 15 s."""
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(request, wanted, rule), media_type="text/event-stream", headers=headers)


@router.get("/sites")
def read_sites(session: Reading, who: Viewer) -> SlotList:
    """Every kit slot, who holds it, and when that trust was last heard of."""
    return overview.slots(session)


async def _events(request: Request, wanted: Wanted, rule: SilenceRule) -> AsyncIterator[str]:
    watched = live.watches(request)
    yield "retry: 2000\n\n"
    told, begun = "", time.monotonic()
    spoke = asked = begun
    while not watched.leaving and time.monotonic() - begun < STREAM_S:
        if time.monotonic() - asked >= live.ASK_AGAIN_S:
            if not await still_reads(request):
                return
            asked = time.monotonic()
        found = await run_in_threadpool(_look, request, wanted, rule)
        now = time.monotonic()
        # That time goes by and that servers report is no news.
        kept = found.model_dump_json(exclude={"at": True, "runs": {"__all__": {"heard_at"}}})
        if kept != told:
            told, spoke = kept, now
            yield f"event: runs\ndata: {found.model_dump_json()}\n\n"
        elif now - spoke >= COMMENT_EVERY_S:
            spoke = now
            yield ":\n\n"
        await watched.pause(_LOOK_EVERY_S)


def _look(request: Request, wanted: Wanted, rule: SilenceRule) -> RunList:
    with database.reading(request.app.state.engine) as session:
        return overview.runs(session, wanted, rule)
