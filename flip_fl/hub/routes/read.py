"""What people and programs read of a model, and the two changes they may make to it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field
from sqlalchemy import Engine
from starlette.concurrency import run_in_threadpool

from flip_fl.dashboard.story import Story
from flip_fl.hub import admin, audit, database
from flip_fl.hub.access import Operator, Viewer, acting, visible_model
from flip_fl.hub.feed import ILogRow, i_log_rows
from flip_fl.hub.model_service import (
    IDetailedModelStatus,
    IModelDetails,
    edit_model,
    get_model_status,
)
from flip_fl.hub.routes.dependencies import Reading, Rule, Writing, live_model, live_status, missing
from flip_fl.hub.shared import Shared
from flip_fl.hub.silence import silent_runs
from flip_fl.hub.story import FEW_POINTS, Plots, build_story, has_more
from flip_fl.hub.tables import utc_now
from flip_fl.values import ModelStatus

router = APIRouter(prefix="/model/{model_id}", tags=["models"])


class ModelEdit(BaseModel):
    """``PUT /model/{id}``."""

    name: Annotated[str, Field(min_length=1, max_length=75, pattern=r"^[^\x00]*$")]
    description: Annotated[str, Field(max_length=250, pattern=r"^[^\x00]*$")] = ""


class StatusOut(IDetailedModelStatus):
    """``GET /model/{id}/status``. ``unreachableSince`` is there while the FL server should report and does not."""

    unreachableSince: datetime | None = None


@router.get("/logs")
def read_logs(model_id: UUID, who: Viewer, session: Reading) -> list[ILogRow]:
    """The activity, oldest first. 404 if absent, 400 if deleted."""
    visible_model(model_id, who, session)
    live_status(model_id, session)
    return i_log_rows(model_id, session)


@router.get("/status", response_model_exclude_none=True)
def read_status(model_id: UUID, who: Viewer, session: Reading, rule: Rule) -> StatusOut:
    """The status, of deleted models too. 404 if absent."""
    visible_model(model_id, who, session)
    status = get_model_status(model_id, session)
    if status is None:
        raise missing(model_id)
    found = silent_runs(session, rule.unreachable_after, utc_now(), model_id)
    return StatusOut(**status.model_dump(), unreachableSince=found[0].since if found else None)


@router.get("/story", response_model=Story)
async def read_story(
    model_id: UUID,
    request: Request,
    who: Viewer,
    rule: Rule,
    plots: Plots = "points",
    feed: Annotated[int | None, Query(ge=1, le=100_000)] = None,
    rows: Literal["all", "few"] = "all",
) -> Response:
    """The whole run as one document. `plots=listed` leaves the points out, `few` does so for more than 20,000.

    `feed` keeps the newest so many lines of the activity. With `rows=few` a run of more than 20,000 lines is told
    at once as `partial`, without its rounds and activity. Who asks for all of such a run while another's answer is
    being made gets that one. 404 if absent, 400 if deleted.
    """
    engine: Engine = request.app.state.engine

    def look() -> bool:
        with database.reading(engine) as session:
            visible_model(model_id, who, session)
            live_status(model_id, session)
            return rows == "all" and has_more(model_id, FEW_POINTS, session)

    def told() -> bytes | None:
        most = FEW_POINTS if rows == "few" else None
        with database.reading(engine) as session:
            story = build_story(model_id, session, rule=rule, plots=plots, feed=feed, rows_at_once=most)
        # It is valid as it was built: of a big run a second look at it takes longer than the hub's own.
        return None if story is None else story.model_dump_json(by_alias=True).encode()

    if await run_in_threadpool(look):
        stories: Shared[bytes | None] = request.app.state.stories
        answer = await stories.get((model_id, plots, feed), told)
    else:
        answer = await run_in_threadpool(told)
    if answer is None:
        raise missing(model_id)
    return Response(answer, media_type="application/json")


@router.put("")
def put_model(model_id: UUID, edit: ModelEdit, who: Operator, session: Writing) -> dict[str, str]:
    """Change name and description of a model whose run has not begun. 404, 400 if deleted or not PENDING."""
    visible_model(model_id, who, session)
    if live_model(model_id, session).status is not ModelStatus.PENDING:
        raise HTTPException(400, f"Model ID: {model_id} can be edited only while it is PENDING")
    audit.record(acting(session, who), "model.edited", model_id, name=edit.name)
    edit_model(model_id, IModelDetails(name=edit.name, description=edit.description), who.name, session)
    return {"success": "model updated"}


@router.delete("", status_code=204)
def remove_model(model_id: UUID, who: Operator, session: Writing) -> None:
    """Flag the model as deleted; its rows stay. 404 if absent, 400 if deleted already."""
    visible_model(model_id, who, session)
    live_model(model_id, session)
    admin.delete_model(acting(session, who), model_id)
