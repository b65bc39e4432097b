"""Whether the hub itself was there to be reported to: nobody is silent while it is away."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session, col, select

from flip_fl.hub.once import insert_once
from flip_fl.hub.tables import HubPresence

NOTE_EVERY = timedelta(seconds=10)
# A busy machine may be late with a note.
AWAY_AFTER = 4 * NOTE_EVERY
_ROW = 1


def note(session: Session, now: datetime) -> None:
    """Note that the hub is there, and commit. After a break it counts as there since now."""
    presence = session.exec(select(HubPresence).where(col(HubPresence.id) == _ROW).with_for_update()).first()
    if presence is None:
        insert_once(HubPresence, [{"id": _ROW, "up_since": now, "seen_at": now}], "id", session)
    else:
        if now - presence.seen_at > AWAY_AFTER:
            presence.up_since = now
        presence.seen_at = now
    session.commit()


def up_since(session: Session, now: datetime) -> datetime | None:
    """Since when the hub has been there; None when it is away, or has never been there."""
    presence = session.exec(select(HubPresence).where(col(HubPresence.id) == _ROW)).first()
    if presence is None or now - presence.seen_at > AWAY_AFTER:
        return None
    return presence.up_since
