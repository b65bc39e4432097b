"""A model's activity, read and worded. One row that cannot be read degrades; it never hides the others."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_
from sqlmodel import Session, col, select

from flip_fl.hub.tables import FlLog, Trust, utc_now
from flip_fl.hub.words import UNREADABLE, event_text
from flip_fl.values import ModelStatus

_logger = logging.getLogger(__name__)


class ILogRow(BaseModel):
    """One row as ``GET /model/{id}/logs`` answers it."""

    id: int
    modelId: UUID
    logDate: datetime
    success: bool
    trustName: str | None
    trustCode: str | None
    flClientName: str | None
    globalRound: int | None
    eventType: str | None
    log: str


@dataclass(frozen=True)
class LogRow:
    """One stored row in words. ``at`` is when it happened, ``stored_at`` when the hub kept it.

    ``sent_at`` is when it happened as the sender's clock says; where that is after the hub had it, ``at`` is not.
    """

    id: int
    at: datetime
    stored_at: datetime
    success: bool
    text: str
    slot: str | None = None
    trust_id: UUID | None = None
    trust_name: str | None = None
    trust_code: str | None = None
    event_type: str | None = None
    global_round: int | None = None
    status: ModelStatus | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    said_at: datetime | None = None

    @property
    def sent_at(self) -> datetime:
        return self.said_at or self.at


class _Raw(NamedTuple):
    id: int
    occurred_at: datetime
    log_date: datetime
    success: bool
    log: str | None
    event_type: str | None
    details: str | None
    global_round: int | None
    status: ModelStatus | None
    trust_id: UUID | None
    fl_client_name: str | None
    trust_name: str | None
    trust_code: str | None


def log_rows(
    model_id: UUID,
    session: Session,
    *,
    after: int = 0,
    before: int | None = None,
    newest: int | None = None,
    in_words: int | None = None,
) -> list[LogRow]:
    """The model's rows in the order in which they were stored; of those with ids between ``after`` and ``before``
    (both excluded) the ``newest`` so many, or all. ``in_words``: of so many of the newest, typed events are worded."""
    wanted = [col(FlLog.model_id) == model_id, col(FlLog.id) > after]
    if before is not None:
        wanted.append(col(FlLog.id) < before)
    try:
        raw = _read(session, and_(*wanted), newest)
    except ValueError:
        # A column of some row holds what its type cannot be: read the rows one by one to keep the rest.
        return _read_singly(and_(*wanted), session, newest)
    silent = 0 if in_words is None else max(0, len(raw) - in_words)
    return [_worded(row, number >= silent) for number, row in enumerate(raw)]


def i_log_rows(model_id: UUID, session: Session) -> list[ILogRow]:
    """The rows as the read route answers them."""
    return [
        ILogRow(
            id=row.id,
            modelId=model_id,
            logDate=row.at,
            success=row.success,
            trustName=row.trust_name,
            trustCode=row.trust_code,
            flClientName=row.slot,
            globalRound=row.global_round,
            eventType=row.event_type,
            log=row.text,
        )
        for row in log_rows(model_id, session)
    ]


def _read(session: Session, condition: ColumnElement[bool], newest: int | None = None) -> list[_Raw]:
    query = (
        select(  # type: ignore[call-overload, misc]
            FlLog.id,
            FlLog.occurred_at,
            FlLog.log_date,
            FlLog.success,
            FlLog.log,
            FlLog.event_type,
            FlLog.details,
            FlLog.global_round,
            FlLog.status,
            FlLog.trust_id,
            FlLog.fl_client_name,
            Trust.name,
            Trust.code,
        )
        .outerjoin(Trust, col(Trust.id) == col(FlLog.trust_id))
        .where(condition)
        .order_by(col(FlLog.id).desc())
    )
    rows = session.exec(query if newest is None else query.limit(newest)).all()
    return [_Raw(*row) for row in reversed(rows)]


def _read_singly(condition: ColumnElement[bool], session: Session, newest: int | None) -> list[LogRow]:
    query = select(FlLog.id).where(condition).order_by(col(FlLog.id).desc())
    ids = list(reversed(session.exec(query if newest is None else query.limit(newest)).all()))
    rows: list[LogRow] = []
    for row_id in ids:
        try:
            rows.extend(_worded(row) for row in _read(session, col(FlLog.id) == row_id))
        except ValueError:
            _logger.warning("row %s of fl_logs cannot be read", row_id)
            # Its own time may be what is broken; it stands beside the row before it.
            at = rows[-1].at if rows else utc_now()
            rows.append(LogRow(int(row_id or 0), at=at, stored_at=at, success=False, text=UNREADABLE))
    return rows


def _worded(raw: _Raw, in_words: bool = True) -> LogRow:
    try:
        details = json.loads(raw.details) if raw.details else {}
        if not isinstance(details, dict):
            raise TypeError("details are no JSON object")
        who = raw.trust_code or raw.trust_name or raw.fl_client_name
        text = (
            raw.log or ""
            if raw.event_type is None
            else event_text(raw.event_type, global_round=raw.global_round, details=details, who=who)
            if in_words
            else ""
        )
    except (ValueError, TypeError, RecursionError):
        _logger.warning("row %s of fl_logs cannot be worded", raw.id)
        details, text = {}, UNREADABLE
    return LogRow(
        id=raw.id,
        # Nothing happens after the hub has heard of it: a clock that is ahead makes no time of the future.
        at=min(raw.occurred_at, raw.log_date),
        said_at=raw.occurred_at,
        stored_at=raw.log_date,
        success=raw.success,
        # Details may hold half a surrogate pair, which no answer could carry.
        text=text.encode("utf-8", "replace").decode("utf-8"),
        slot=raw.fl_client_name,
        trust_id=raw.trust_id,
        trust_name=raw.trust_name,
        trust_code=raw.trust_code,
        event_type=raw.event_type,
        global_round=raw.global_round,
        status=raw.status,
        details=details,
    )
