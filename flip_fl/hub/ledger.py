"""The ledger of event ids: whatever is stored is stored once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import text, update
from sqlmodel import Session, col

from flip_fl.hub.tables import EventLedger
from flip_fl.values import ModelStatus

# One parameter holds all ids, so that the statement is the same for any number of them. Time-ordered ids are appended
# to the key's index; of equal ones the first is entered.
_CLAIM = {
    "sqlite": text(
        "INSERT INTO fl_event_ledger (model_id, event_id, applied) "
        "SELECT :model, value, 1 FROM json_each(:events) WHERE true ON CONFLICT DO NOTHING RETURNING event_id"
    ),
    "postgresql": text(
        "INSERT INTO fl_event_ledger (model_id, event_id, applied) "
        "SELECT :model, event, true FROM unnest(CAST(:events AS uuid[])) AS event "
        "ON CONFLICT DO NOTHING RETURNING event_id"
    ),
}


def event_id(idempotency_key: str) -> UUID:
    """The id that a key stands for. A UUID stands for itself, so that an event is known on every route."""
    try:
        return UUID(idempotency_key)
    except ValueError:
        return UUID(bytes=hashlib.sha256(idempotency_key.encode()).digest()[:16])


def claim(model_id: UUID, events: Sequence[str], session: Session) -> set[str]:
    """Enter ids (their 32 hexadecimal digits); returns those that are new. Does not commit: a rolled-back id is free
    again."""
    asked = set(events)
    if not asked:
        return asked
    dialect = session.get_bind().dialect.name
    # SQLite holds ids as text, see the type ``Uuid``.
    facts: dict[str, dict[str, object]] = {
        "sqlite": {"model": model_id.hex, "events": json.dumps(list(events))},
        "postgresql": {"model": model_id, "events": f"{{{','.join(events)}}}"},
    }
    found = session.execute(_CLAIM[dialect], facts[dialect]).scalars().all()
    if len(found) == len(asked):
        return asked
    return {event.hex if isinstance(event, UUID) else str(event) for event in found}


def mark_late(model_id: UUID, event: UUID, status: ModelStatus, at: datetime, session: Session) -> None:
    """Note at an entered id that its status came too late to count. Does not commit."""
    session.exec(
        update(EventLedger)
        .where(col(EventLedger.model_id) == model_id, col(EventLedger.event_id) == event)
        .values(applied=False, status=status, occurred_at=at)
    )
