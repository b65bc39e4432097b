"""The service keys that FL servers report with: the one of the hub's settings, and those that followed it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, text
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from flip_fl.errors import FlipError
from flip_fl.hub import audit, database
from flip_fl.hub.access_tables import ServiceKey
from flip_fl.hub.security import new_service_key
from flip_fl.hub.tables import utc_now

OVERLAP = timedelta(hours=24)
FINGERPRINT_DIGITS = 12
# How long a hub goes on with a key that another process has ended.
_REFRESH_S = 2.0


@dataclass(frozen=True)
class KeyInfo:
    """One service key by the first digits of its SHA-256. ``source``: ``settings`` or ``database``."""

    fingerprint: str
    source: str
    created_at: datetime | None
    ends_at: datetime | None
    valid: bool


class KeyRing:
    """The hashes that open the FL routes now, as the database last told them."""

    def __init__(self, settings_hash: str) -> None:
        self._settings_hash = settings_hash.lower()
        self._engine: Engine | None = None
        self._rows: Sequence[tuple[str, datetime | None]] = ()
        self._read_at = 0.0

    async def hashes(self, engine: Engine) -> tuple[str, ...] | None:
        """The valid hashes; None when no key was ever set."""
        if engine is not self._engine or time.monotonic() - self._read_at > _REFRESH_S:
            self._rows = await run_in_threadpool(_read, engine)
            self._engine, self._read_at = engine, time.monotonic()
        if not self._settings_hash and not self._rows:
            return None
        return _valid(self._settings_hash, self._rows, utc_now())

    def forget(self) -> None:
        """Ask the database again next time: a key has come or gone."""
        self._engine = None


def rotate(session: Session, settings_hash: str, *, overlap: timedelta = OVERLAP) -> tuple[str, KeyInfo]:
    """Make a new service key and commit; the others end after ``overlap``. Returns the key, shown once."""
    rows = _held(session)
    now = utc_now()
    ends_at = now + max(overlap, timedelta(0))
    before = set(_valid(settings_hash.lower(), [(row.hash, row.ends_at) for row in rows.values()], now))
    for known in before:
        row = rows.get(known) or ServiceKey(hash=known, created_at=now)
        row.ends_at = ends_at if row.ends_at is None else min(row.ends_at, ends_at)
        session.add(row)
    key, key_hash = new_service_key()
    session.add(ServiceKey(hash=key_hash, created_at=now))
    audit.record(session, "key.rotated", key_hash[:FINGERPRINT_DIGITS], before=sorted(map(_short, before)))
    session.commit()
    return key, KeyInfo(_short(key_hash), "database", now, None, True)


def revoke(session: Session, settings_hash: str, fingerprint: str) -> KeyInfo:
    """End the key of this fingerprint at once, and commit; harmless when done before. ``FlipError`` E1002."""
    rows = _held(session)
    now = utc_now()
    found = [key for key in {*rows, settings_hash.lower()} - {""} if _short(key) == fingerprint.lower()]
    if not found:
        session.rollback()
        raise FlipError("E1002", kind="service key", name=fingerprint, known="", suggestion="flip-fl hub key list")
    row = rows.get(found[0]) or ServiceKey(hash=found[0], created_at=now)
    if row.ends_at is None or row.ends_at > now:
        row.ends_at = now
        session.add(row)
        audit.record(session, "key.revoked", _short(row.hash))
    session.commit()
    source = "settings" if found[0] == settings_hash.lower() else "database"
    return KeyInfo(_short(found[0]), source, row.created_at, row.ends_at, False)


def listed(session: Session, settings_hash: str) -> list[KeyInfo]:
    """Every key, that of the settings first, then oldest first."""
    now, known = utc_now(), settings_hash.lower()
    rows = session.exec(select(ServiceKey).order_by(col(ServiceKey.created_at), col(ServiceKey.hash))).all()
    infos = [
        KeyInfo(
            _short(row.hash),
            "settings" if row.hash == known else "database",
            None if row.hash == known else row.created_at,
            row.ends_at,
            row.ends_at is None or row.ends_at > now,
        )
        for row in rows
    ]
    if known and known not in {row.hash for row in rows}:
        infos.append(KeyInfo(_short(known), "settings", None, None, True))
    return sorted(infos, key=lambda info: info.source != "settings")


def _valid(settings_hash: str, rows: Sequence[tuple[str, datetime | None]], now: datetime) -> tuple[str, ...]:
    ends = dict(rows)
    known = dict.fromkeys([*([settings_hash] if settings_hash else []), *ends])
    return tuple(key for key in known if (end := ends.get(key)) is None or end > now)


def _held(session: Session) -> dict[str, ServiceKey]:
    """The rows by hash, held against another rotation: the first has none yet that it could lock."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(text("LOCK TABLE hub_service_key IN SHARE ROW EXCLUSIVE MODE"))
    return {row.hash: row for row in session.exec(select(ServiceKey))}


def _read(engine: Engine) -> Sequence[tuple[str, datetime | None]]:
    with database.reading(engine) as session:
        return [(row[0], row[1]) for row in session.exec(select(ServiceKey.hash, ServiceKey.ends_at))]


def _short(key_hash: str) -> str:
    return key_hash[:FINGERPRINT_DIGITS]
