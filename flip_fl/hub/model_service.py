"""What the hub does to models: status, details, deletion, log rows, metrics.

Functions commit their own transaction unless their docstring says otherwise; a deleted model is not refused here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import func
from sqlmodel import Session, col, select

from flip_fl.dashboard.story import FL_SERVER
from flip_fl.hub import clients, nets
from flip_fl.hub.curves import IModelMetrics, curves
from flip_fl.hub.tables import FlLog, Model, ModelsAudit, ModelTrustIntersect, StatusHistory, Trust, utc_now
from flip_fl.values import TERMINAL_STATUSES, ModelAuditAction, ModelStatus

_STATUS_AUDIT_MAP: Mapping[ModelStatus, ModelAuditAction] = {
    ModelStatus.PREPARED: ModelAuditAction.PREPARED,
    ModelStatus.RUNNING: ModelAuditAction.RUNNING,
    ModelStatus.RESULTS_UPLOADED: ModelAuditAction.RESULTS_UPLOADED,
}

# What may still arrive of a run that a person has stopped. A new queueing (INITIATED, PENDING) is a person's act.
_LATE_AFTER_STOP = frozenset(
    {
        ModelStatus.PREPARED,
        ModelStatus.RUNNING,
        ModelStatus.ERROR,
        ModelStatus.RESULTS_UPLOADED,
        ModelStatus.RESULTS_UPLOAD_FAILED,
    }
)

_QUEUED = (ModelStatus.PENDING, ModelStatus.INITIATED)
_BY_HUB = "hub"


class IModelDetails(BaseModel):
    """What people may edit of a model."""

    name: str
    description: str


class IDetailedModelStatus(BaseModel):
    """A model's status, told of deleted models too."""

    model_config = ConfigDict(frozen=True)

    status: ModelStatus
    deleted: bool


def edit_model(model_id: UUID, model_details: IModelDetails, user_id: UUID | str, session: Session) -> None:
    """Set name and description, with an EDIT audit row in the same transaction. ``ValueError`` if absent."""
    model = _require(model_id, session)
    model.name = model_details.name
    model.description = model_details.description
    session.add(ModelsAudit(model_id=model_id, action=ModelAuditAction.EDIT, user_id=str(user_id)))
    _commit(session)


def update_model_status(
    model_id: UUID,
    status: ModelStatus | None,
    session: Session,
    user_id: UUID | str | None = None,
    *,
    by: str | None = None,
    reason: str | None = None,
    at: datetime | None = None,
) -> ModelStatus | None:
    """Change the status and return the one that is stored then; None if the model is absent.

    ``status=None`` changes nothing and returns the current one. After STOPPED only INITIATED and PENDING are taken.
    Status, history, audit row and the net's release are one transaction.
    """
    if status is None:
        current = session.exec(select(Model.status).where(col(Model.id) == model_id)).first()
        return None if current is None else ModelStatus(current)
    try:
        model = lock_model(model_id, session)
        if model is None:
            session.rollback()
            return None
        apply_status(model, status, session, user_id, by=by, reason=reason, at=at)
        stored = model.status
        session.commit()
    except Exception:
        session.rollback()
        raise
    return stored


def lock_model(model_id: UUID, session: Session) -> Model | None:
    """The model's row as it is now, held against other writers until the transaction ends; None if absent."""
    return session.exec(
        select(Model)
        .where(col(Model.id) == model_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).first()


def apply_status(
    model: Model,
    status: ModelStatus,
    session: Session,
    user_id: UUID | str | None = None,
    *,
    by: str | None = None,
    reason: str | None = None,
    at: datetime | None = None,
) -> tuple[bool, bool]:
    """Change a locked model's status, without committing; returns (taken, changed).

    Not taken: it came too late, the run was stopped. Taken and not changed: it is the status already; a reason
    that was not known before is kept.
    """
    previous = model.status
    if previous is ModelStatus.STOPPED and status in _LATE_AFTER_STOP:
        return False, False
    if previous is status:
        if reason is not None:
            _add_reason(model.id, status, reason, session)
        return True, False
    model.status = status
    if status in _QUEUED and by != FL_SERVER:
        # A run that waits in the queue is not awaited; its server will be from its first report on.
        model.heard_at = None
    user = None if user_id is None else str(user_id)
    now = utc_now()
    session.add(
        StatusHistory(
            model_id=model.id,
            previous=previous,
            status=status,
            by=by or user or _BY_HUB,
            reason=reason,
            # Durations are told by the hub's clock: nothing happens after it has heard of it.
            at=now if at is None else min(at, now),
        )
    )
    action = _STATUS_AUDIT_MAP.get(status)
    if action is not None:
        session.add(ModelsAudit(model_id=model.id, action=action, user_id=user))
    session.flush()
    if status in TERMINAL_STATUSES:
        nets.release(model.id, session)
    return True, True


def add_log(
    model_id: UUID,
    log: str | None,
    session: Session,
    transaction: Session | None = None,
    success: bool = True,
    trust: Trust | UUID | str | None = None,
    fl_client_name: str | None = None,
    *,
    event_type: str | None = None,
    global_round: int | None = None,
    details: Mapping[str, Any] | None = None,
    status: ModelStatus | None = None,
    at: datetime | None = None,
) -> None:
    """Store one log row; ``trust`` is a trust, its id or its name, and None for the hub's own rows.

    Commits unless ``transaction`` is given: then the row is written in that session, which stays open. On any
    error that session is rolled back and the error raised again.
    """
    target = session if transaction is None else transaction
    try:
        target.add(
            FlLog(
                model_id=model_id,
                log=log_text(log),
                success=success,
                trust_id=_trust_id(trust, target),
                fl_client_name=fl_client_name,
                event_type=event_type,
                global_round=global_round,
                details=None if details is None else json.dumps(details, separators=(",", ":")),
                status=status,
                occurred_at=at or utc_now(),
            )
        )
        target.flush()
        if transaction is None:
            target.commit()
    except Exception:
        target.rollback()
        raise


def log_text(text: str | None) -> str | None:
    """``text`` as every database can hold it; no row may be lost for a NUL or for half a surrogate pair."""
    return None if text is None else text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def delete_model(model_id: UUID, user_id: UUID | str, session: Session) -> None:
    """Flag the model as deleted, with a DELETE audit row in the same transaction. ``ValueError`` if absent."""
    _flag_deleted(_require(model_id, session), user_id, session)
    _commit(session)


def delete_models(project_id: UUID, user_id: str, session: Session, ensure_deletion: bool = True) -> int:
    """Flag every live model of a project, one DELETE audit row each, in one transaction; returns how many.

    Without a live model: ``ValueError``, or 0 when ``ensure_deletion`` is false.
    """
    live = session.exec(
        select(Model)
        .where(col(Model.project_id) == project_id, col(Model.deleted).is_(False))
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).all()
    if not live:
        session.rollback()
        if ensure_deletion:
            raise ValueError(f"Failed to delete models for project: {project_id}")
        return 0
    for model in live:
        _flag_deleted(model, user_id, session)
    _commit(session)
    return len(live)


def get_model_status(model_id: UUID, session: Session) -> IDetailedModelStatus | None:
    """Status and whether it is deleted; None only if the model is absent."""
    row = session.exec(select(Model.status, Model.deleted).where(col(Model.id) == model_id)).first()
    return None if row is None else IDetailedModelStatus(status=ModelStatus(row[0]), deleted=row[1])


def resolve_trust_from_fl_client_name(fl_client_name: str, session: Session) -> Trust | None:
    """The trust that holds exactly this kit slot; a trust's own name is never a client's."""
    return clients.holder(fl_client_name, session)


def validate_trust_ids(model_id: UUID, trust_ids: Sequence[UUID], session: Session) -> bool:
    """Whether every one of ``trust_ids`` takes part in the model; true of none."""
    wanted = set(trust_ids)
    if not wanted:
        return True
    found = session.exec(
        select(func.count())
        .select_from(ModelTrustIntersect)
        .where(col(ModelTrustIntersect.model_id) == model_id, col(ModelTrustIntersect.trust_id).in_(wanted))
    ).one()
    return found == len(wanted)


def get_metrics(model_id: UUID, session: Session) -> list[IModelMetrics]:
    """Every plot of the model, each with one series per trust in stable x order; ``[]`` when there is none."""
    return curves(model_id, session)


def _require(model_id: UUID, session: Session) -> Model:
    model = lock_model(model_id, session)
    if model is None:
        session.rollback()
        raise ValueError(f"Model {model_id} not found")
    return model


def _flag_deleted(model: Model, user_id: UUID | str, session: Session) -> None:
    model.deleted = True
    session.add(ModelsAudit(model_id=model.id, action=ModelAuditAction.DELETE, user_id=str(user_id)))


def _add_reason(model_id: UUID, status: ModelStatus, reason: str, session: Session) -> None:
    last = session.exec(
        select(StatusHistory)
        .where(col(StatusHistory.model_id) == model_id)
        .order_by(col(StatusHistory.id).desc())
        .limit(1)
    ).first()
    if last is not None and last.status is status and last.reason is None:
        last.reason = reason
        session.flush()


def _trust_id(trust: Trust | UUID | str | None, session: Session) -> UUID | None:
    if trust is None or isinstance(trust, UUID):
        return trust
    if isinstance(trust, Trust):
        return trust.id
    found = session.exec(select(Trust.id).where(col(Trust.name) == trust)).first()
    if found is None:
        raise ValueError("the log row names a trust that the hub does not know")
    return found


def _commit(session: Session) -> None:
    try:
        session.commit()
    except Exception:
        session.rollback()
        raise
