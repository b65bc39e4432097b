"""Runs whose FL server is not heard of: noting that it was, and saying since when it was not.

A sender posts at least an empty batch every 10 s. Silence is counted only while the hub itself was there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement
from sqlmodel import Session, col, select

from flip_fl.dashboard.words import span
from flip_fl.hub import presence
from flip_fl.hub.model_service import add_log, lock_model
from flip_fl.hub.tables import FlJob, FlScheduler, Model, StatusHistory, utc_now
from flip_fl.settings import HubSettings
from flip_fl.values import ModelStatus

LIVE = (ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING)
# How exactly it is known when a server was heard of last: one more row to write every few seconds.
HEARD_EVERY = timedelta(seconds=5)
SWEEP = "hub's rule for silent runs"


@dataclass(frozen=True)
class SilenceRule:
    """When a silent run is unreachable, and when it ends as ERROR (None: never)."""

    unreachable_after: timedelta
    error_after: timedelta | None = None

    @classmethod
    def of(cls, settings: HubSettings) -> SilenceRule:
        """The rule that an operator has set. No run ends before it was shown as unreachable."""
        shown = settings.unreachable_after_s
        ends = settings.stale_error_after_s
        return cls(timedelta(seconds=shown), None if ends is None else timedelta(seconds=max(ends, shown)))


@dataclass(frozen=True)
class Silent:
    """A run that should report and does not: not heard of since ``since``, of which ``counted`` was the server's."""

    model_id: UUID
    name: str
    status: ModelStatus
    since: datetime
    counted: timedelta


def hear(model: Model, session: Session, unreachable_after: timedelta) -> None:
    """Note that the FL server reports on a locked model. Does not commit.

    If it had been unreachable, or its run was ended because it was silent, a log row tells of the break.
    """
    now = utc_now()
    last = model.heard_at
    if last is not None and timedelta(0) <= now - last < HEARD_EVERY:
        return
    if last is not None:
        text = _break(model, last, now, session, unreachable_after)
        if text is not None:
            add_log(model.id, text, session, session, at=now)
    model.heard_at = now


def hear_of(model_id: UUID, session: Session, unreachable_after: timedelta) -> None:
    """As ``hear``, of a model that is not locked: it is, once in a few seconds. Nothing for a model that is absent."""
    last = session.exec(select(Model.heard_at).where(col(Model.id) == model_id)).first()
    if last is not None and timedelta(0) <= utc_now() - last < HEARD_EVERY:
        return
    model = lock_model(model_id, session)
    if model is not None:
        hear(model, session, unreachable_after)


def silent_runs(session: Session, after: timedelta, now: datetime, model_id: UUID | None = None) -> list[Silent]:
    """The live runs (or the one named, if it is) of which nothing was heard for longer than ``after``.

    A run is awaited from its first report on, or from when a net began to work on it; one that waits in the queue is
    not. None is silent while the hub is away.
    """
    up = presence.up_since(session, now)
    if up is None:
        return []
    wanted: list[ColumnElement[bool]] = [col(Model.status).in_(LIVE), col(Model.deleted).is_(False)]
    if model_id is not None:
        wanted.append(col(Model.id) == model_id)
    rows = session.exec(
        select(Model, FlJob.started_at)
        .outerjoin(FlJob, (col(FlJob.model_id) == col(Model.id)) & col(FlJob.id).in_(select(FlScheduler.job_id)))
        .where(*wanted)
        .order_by(col(Model.created_at), col(Model.id))
    )
    # A run that occupies several nets comes several times.
    found: dict[UUID, Silent] = {}
    for model, begun in rows:
        since = model.heard_at or begun
        if since is None:
            continue
        counted = now - max(since, up)
        if counted > after:
            found[model.id] = Silent(model.id, model.name, model.status, since, counted)
    return list(found.values())


def _break(model: Model, last: datetime, now: datetime, session: Session, after: timedelta) -> str | None:
    if model.status is ModelStatus.ERROR:
        ended = session.exec(
            select(StatusHistory.by, StatusHistory.at)
            .where(col(StatusHistory.model_id) == model.id)
            .order_by(col(StatusHistory.id).desc())
            .limit(1)
        ).first()
        if ended is None or ended[0] != SWEEP or last > ended[1]:
            return None
        return f"The FL server reports again, after {span(now - last)}: the run had been ended, its reports are kept."
    found = silent_runs(session, after, now, model.id)
    return f"No news from the FL server for {span(now - last)}; it reports again." if found else None
