"""Who changed what: rows beside each change, in its transaction, that nobody can change afterwards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel import Session, col, select

from flip_fl.hub.access_tables import HubAudit

_ACTOR = "flip_actor"
_SUBJECT_CHARS = 255
MAX_ROWS = 1000


@dataclass(frozen=True)
class Actor:
    """Who acts. ``kind`` says how the hub knows: token, session, service, cli (the account of the machine) or hub."""

    name: str
    kind: str


HUB = Actor("hub", "hub")


@dataclass(frozen=True)
class AuditInfo:
    """One change: ``action`` is ``<kind of thing>.<what was done>``, ``subject`` the thing's name or id."""

    id: int
    at: datetime
    actor: str
    actor_kind: str
    action: str
    subject: str
    details: dict[str, Any]


def act_as(session: Session, actor: Actor) -> None:
    """From now on what is changed in ``session`` is recorded as ``actor``'s doing."""
    session.info[_ACTOR] = actor


def actor_of(session: Session) -> Actor:
    """Whose doing the changes of ``session`` are: the hub's own unless somebody else was named."""
    actor: Actor = session.info.get(_ACTOR, HUB)
    return actor


def record(session: Session, action: str, subject: object, *, project_id: UUID | None = None, **details: Any) -> None:
    """Add the row of a change to its transaction. ``details`` must be JSON, and hold no key; does not commit."""
    actor = actor_of(session)
    session.add(
        HubAudit(
            actor=actor.name[:_SUBJECT_CHARS],
            actor_kind=actor.kind,
            action=action,
            subject=str(subject)[:_SUBJECT_CHARS],
            project_id=project_id,
            details=json.dumps(details, separators=(",", ":")),
        )
    )
    session.flush()


def entries(
    session: Session, *, limit: int = 100, before: int | None = None, subject: str | None = None
) -> Sequence[AuditInfo]:
    """The changes, newest first: at most ``limit`` (1 to 1000), older than row ``before``, of one ``subject``."""
    query = select(HubAudit).order_by(col(HubAudit.id).desc()).limit(max(1, min(limit, MAX_ROWS)))
    if before is not None:
        query = query.where(col(HubAudit.id) < before)
    if subject is not None:
        query = query.where(col(HubAudit.subject) == subject)
    return [
        AuditInfo(row.id or 0, row.at, row.actor, row.actor_kind, row.action, row.subject, json.loads(row.details))
        for row in session.exec(query)
    ]
