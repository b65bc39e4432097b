"""What a hub forgets: points, logs and event ids of runs that ended long ago. What happened to whom stays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func
from sqlmodel import Session, SQLModel, col, select

from flip_fl.hub.model_service import add_log, lock_model
from flip_fl.hub.tables import (
    EventLedger,
    FlLog,
    FlMetric,
    FlMetricBlock,
    FlMetricSeries,
    FlRoundScore,
    Model,
    StatusHistory,
)
from flip_fl.values import TERMINAL_STATUSES, ModelStatus

# Of a run stay the model, its status history, its audit rows, and who took part.
_FORGOTTEN: tuple[type[SQLModel], ...] = (FlMetric, FlMetricBlock, FlMetricSeries, FlRoundScore, FlLog, EventLedger)


@dataclass(frozen=True)
class Expired:
    """A run whose details are due: it ended (or was deleted) before the given time. ``rows`` are what is forgotten."""

    model_id: UUID
    name: str
    status: ModelStatus
    ended_at: datetime
    rows: int


def expired(session: Session, before: datetime) -> list[Expired]:
    """The runs that ended before ``before`` and still have details, oldest first."""
    ended = (
        select(col(StatusHistory.model_id), func.max(StatusHistory.at).label("at"))
        .group_by(col(StatusHistory.model_id))
        .subquery()
    )
    found = session.execute(
        select(Model.id, Model.name, Model.status, ended.c.at)
        .join(ended, ended.c.model_id == col(Model.id))
        .where(col(Model.status).in_(TERMINAL_STATUSES) | col(Model.deleted).is_(True), ended.c.at < before)
        .order_by(ended.c.at)
    ).all()
    runs = [Expired(model_id, name, status, at, _rows(model_id, session)) for model_id, name, status, at in found]
    session.commit()
    # The row that says that they were forgotten is no detail.
    return [run for run in runs if run.rows > 1]


def forget(session: Session, run: Expired, now: datetime) -> None:
    """Remove a run's details and say so in its log, in one transaction. Nothing if it has begun again meanwhile."""
    model = lock_model(run.model_id, session)
    if model is None or not (model.deleted or model.status.is_terminal):
        session.rollback()
        return
    for table in _FORGOTTEN:
        session.execute(delete(table).where(_of(table, run.model_id)))
    add_log(
        run.model_id,
        f"{run.rows} rows of this run were removed by the hub's rule of retention.",
        session,
        session,
        at=now,
    )
    session.commit()


def _rows(model_id: UUID, session: Session) -> int:
    tables = (FlMetric, FlLog, EventLedger)
    counts = [session.execute(select(func.count()).where(_of(table, model_id))).scalar_one() for table in tables]
    return int(sum(counts))


def _of(table: type[SQLModel], model_id: UUID) -> ColumnElement[bool]:
    return SQLModel.metadata.tables[str(table.__tablename__)].c.model_id == model_id
