"""The ledger of event ids: whatever is stored is stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import update
from sqlmodel import Session, col

from flip_fl.hub.once import insert_once
from flip_fl.hub.tables import EventLedger
from flip_fl.values import ModelStatus


def event_id(idempotency_key: str) -> UUID:
    """The id that a key stands for. A UUID stands for itself, so that an event is known on every route."""
    try:
        return UUID(idempotency_key)
    except ValueError:
        return UUID(bytes=hashlib.sha256(idempotency_key.encode()).digest()[:16])


def claim(model_id: UUID, events: Sequence[tuple[UUID, datetime]], session: Session) -> set[UUID]:
    """Enter (id, when) pairs; returns the ids that are new. Does not commit: a rolled-back id is free again."""
    rows = [{"model_id": model_id, "event_id": event, "occurred_at": at, "applied": True} for event, at in events]
    return set(insert_once(EventLedger, rows, "event_id", session))


def mark_late(model_id: UUID, event: UUID, status: ModelStatus, session: Session) -> None:
    """Note at an entered id that its status came too late to count. Does not commit."""
    session.exec(
        update(EventLedger)
        .where(col(EventLedger.model_id) == model_id, col(EventLedger.event_id) == event)
        .values(applied=False, status=status)
    )
