"""What routes ask for: a session on the app's database, and models that are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, Header, HTTPException, Path, Request
from sqlmodel import Session

from flip_fl.hub import database
from flip_fl.hub.model_service import IDetailedModelStatus, get_model_status, lock_model
from flip_fl.hub.silence import SilenceRule
from flip_fl.hub.tables import Model
from flip_fl.wire import DETAIL_MODEL_MISSING, IDEMPOTENCY_HEADER


def _writing(request: Request) -> Iterator[Session]:
    with database.writing(request.app.state.engine) as session:
        yield session


def _reading(request: Request) -> Iterator[Session]:
    with database.reading(request.app.state.engine) as session:
        yield session


def _rule(request: Request) -> SilenceRule:
    return SilenceRule.of(request.app.state.settings)


Writing = Annotated[Session, Depends(_writing)]
Reading = Annotated[Session, Depends(_reading)]
Rule = Annotated[SilenceRule, Depends(_rule)]
# What neither database can hold as text, and no name has.
Name = Annotated[str, Path(max_length=255, pattern=r"^[^\x00-\x1f]+$")]
IdempotencyKey = Annotated[str | None, Header(alias=IDEMPOTENCY_HEADER, min_length=1, max_length=255)]

CONFLICT: dict[int | str, dict[str, Any]] = {409: {"description": "It is there already and differs, or none is free."}}


def live_model(model_id: UUID, session: Session) -> Model:
    """The model's row, locked for this transaction. 404 if absent, 400 if deleted."""
    model = lock_model(model_id, session)
    if model is None:
        raise missing(model_id)
    if model.deleted:
        raise deleted(model_id)
    return model


def live_status(model_id: UUID, session: Session) -> IDetailedModelStatus:
    """The model's status, nothing locked. 404 if absent, 400 if deleted."""
    status = get_model_status(model_id, session)
    if status is None:
        raise missing(model_id)
    if status.deleted:
        raise deleted(model_id)
    return status


def missing(model_id: UUID) -> HTTPException:
    return HTTPException(404, DETAIL_MODEL_MISSING.format(model_id))


def deleted(model_id: UUID) -> HTTPException:
    return HTTPException(400, f"Model ID: {model_id} is deleted")
