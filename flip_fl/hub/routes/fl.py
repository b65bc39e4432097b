"""The three routes an FL server reports to, in both dialects, and the batch route that replaces them."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import State

from flip_fl.hub import database
from flip_fl.hub.access import service
from flip_fl.hub.batch import store_batch
from flip_fl.hub.bulk import insert_metrics
from flip_fl.hub.clients import Participant, older_participant, participants
from flip_fl.hub.intake import check_client, metric_row, take_status, unattributed
from flip_fl.hub.items import NoBatch, facts_in, read_items
from flip_fl.hub.ledger import claim, event_id, mark_late
from flip_fl.hub.meters import Meters
from flip_fl.hub.model_service import add_log, lock_model
from flip_fl.hub.routes.dependencies import IdempotencyKey, Rule, Writing, deleted, live_model
from flip_fl.hub.silence import SilenceRule, hear, hear_of
from flip_fl.hub.tables import utc_now
from flip_fl.values import ModelStatus
from flip_fl.wire import IDEMPOTENCY_HEADER, BatchIn, BatchOut, LogIn, MetricIn

router = APIRouter(prefix="/model/{model_id}", tags=["FL server"], dependencies=[Depends(service)])

_BATCH_BODY: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": BatchIn.model_json_schema()}}}
}


@router.put("/status/{status}")
def put_status(
    model_id: UUID, status: ModelStatus, session: Writing, rule: Rule, response: Response, key: IdempotencyKey = None
) -> dict[str, str]:
    """Set the status. One that comes after STOPPED is answered like any other and changes nothing."""
    model = live_model(model_id, session)
    hear(model, session, rule.unreachable_after)
    if _is_new(model_id, key, session, response) and not take_status(model, status, session) and key is not None:
        mark_late(model_id, event_id(key), status, utc_now(), session)
    session.commit()
    return {"success": "status set"}


@router.post("/metrics", status_code=204)
def post_metric(
    model_id: UUID, metric: MetricIn, session: Writing, rule: Rule, response: Response, key: IdempotencyKey = None
) -> None:
    """Store one metric of one client."""
    participant = _attributed(model_id, metric, session)
    hear_of(model_id, session, rule.unreachable_after)
    if _is_new(model_id, key, session, response):
        x_label, x_value = metric.coordinate()
        row = metric_row(
            model_id,
            participant,
            global_round=metric.global_round,
            label=metric.label,
            result=metric.result,
            x_label=x_label,
            x_value=x_value,
            at=utc_now(),
        )
        insert_metrics([row], session)
    session.commit()


@router.post("/logs")
def post_log(
    model_id: UUID, row: LogIn, session: Writing, rule: Rule, response: Response, key: IdempotencyKey = None
) -> dict[str, str]:
    """Store one log row or typed event. A failure report is kept even when its client cannot be named."""
    text = row.log
    participant = None
    claimed = row.fl_client_name or row.trust
    if claimed is None:
        live_model(model_id, session)
    elif row.success or row.event_type is not None:
        participant = _attributed(model_id, row, session)
    else:
        live_model(model_id, session)
        participant = _claimed(model_id, row, session)
        if participant is None or not participant.associated:
            text, participant = unattributed(participant, claimed, text or ""), None
    hear_of(model_id, session, rule.unreachable_after)
    if _is_new(model_id, key, session, response):
        add_log(
            model_id,
            text,
            session,
            session,
            success=row.success,
            trust=participant.trust_id if participant else None,
            fl_client_name=participant.slot if participant else None,
            event_type=row.event_type,
            global_round=row.global_round,
            details=row.details,
        )
    session.commit()
    return {"detail": "Created"}


@router.post("/events", response_model=BatchOut, openapi_extra=_BATCH_BODY)
async def post_batch(model_id: UUID, request: Request, rule: Rule) -> Response:
    """Store many facts at once; each gets an outcome of its own, in order."""
    # The body goes past the framework, which would read, check and write everything once more.
    body = await request.body()
    answer = await run_in_threadpool(_store, request.app.state, model_id, body, rule)
    return Response(answer, media_type="application/json")


def _store(state: State, model_id: UUID, body: bytes, rule: SilenceRule) -> str:
    try:
        items = read_items(body)
    except NoBatch as error:
        raise RequestValidationError(error.errors) from None
    with database.writing(state.engine) as session:
        answer = store_batch(model_id, items, session, unreachable_after=rule.unreachable_after)
    meters: Meters = state.meters
    meters.count(
        result.outcome for item, result in zip(items, answer.results, strict=True) for _ in range(facts_in(item))
    )
    return answer.model_dump_json(exclude_none=True)


def _claimed(model_id: UUID, body: MetricIn | LogIn, session: Session) -> Participant | None:
    if body.fl_client_name is not None:
        return participants(model_id, [body.fl_client_name], session).get(body.fl_client_name)
    return older_participant(model_id, str(body.trust), session)


def _attributed(model_id: UUID, body: MetricIn | LogIn, session: Session) -> Participant:
    """The participant a body names. 400 if there is none; an unknown model has none either.

    Holds the model's row, as a batch does: ids of its rows must grow in the order in which they are committed.
    """
    participant = _claimed(model_id, body, session)
    refusal = check_client(participant, str(body.fl_client_name or body.trust), model_id)
    if refusal is not None or participant is None:
        raise HTTPException(400, refusal.detail if refusal else None)
    model = lock_model(model_id, session)
    if model is not None and model.deleted:
        raise deleted(model_id)
    return participant


def _is_new(model_id: UUID, key: str | None, session: Session, response: Response) -> bool:
    """Enter the key into the ledger; False if it is there. The echo tells the sender that this hub keeps keys."""
    if key is None:
        return True
    response.headers[IDEMPOTENCY_HEADER] = key
    return bool(claim(model_id, [event_id(key).hex], session))
