"""All runs at a glance, and who holds which slot: what the hub's list pages show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field
from sqlalchemy import ColumnElement, and_, exists, func, or_
from sqlmodel import Session, col, select

from flip_fl.dashboard import words
from flip_fl.dashboard.story import FL_SERVER, Headline
from flip_fl.hub.silence import SilenceRule, silent_runs
from flip_fl.hub.tables import (
    FlKitSlot,
    FlLog,
    Model,
    ModelTrustIntersect,
    Project,
    SlotRevocation,
    StatusHistory,
    Trust,
    utc_now,
)
from flip_fl.hub.words import whole
from flip_fl.values import TERMINAL_STATUSES, EventType, ModelStatus

# Of how many runs, those heard of last, a trust's last sign is looked for.
RECENT_RUNS = 50

State = Literal["live", "finished", "failed", "stopped", "draft"]
_STATES: dict[State, tuple[ModelStatus, ...]] = {
    "live": (ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING),
    "finished": (ModelStatus.RESULTS_UPLOADED, ModelStatus.RESULTS_UPLOAD_FAILED),
    "failed": (ModelStatus.ERROR,),
    "stopped": (ModelStatus.STOPPED,),
    "draft": (ModelStatus.PENDING,),
}


class RunRow(BaseModel):
    """One run in the list. ``heard_at`` is when its FL server reported last; ``sites`` how many take part."""

    id: UUID
    name: str = Field(examples=["Breast cancer"])
    description: str
    project: str = Field(examples=["Pathology"])
    status: ModelStatus
    headline: Headline
    round: int | None
    total_rounds: int | None
    sites: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    heard_at: datetime | None


class RunList(BaseModel):
    """The newest runs first; ``more`` when there are older ones still; ``at`` is the hub's clock."""

    at: datetime
    runs: list[RunRow]
    more: bool
    projects: list[str]


class SlotRow(BaseModel):
    """A kit slot and the trust that holds it; ``seen_at`` is its last sign in one of the latest runs."""

    slot: str = Field(examples=["Trust_1"])
    trust: str | None = Field(examples=["Guy's and St Thomas'"])
    code: str | None = Field(examples=["GSTT"])
    assigned_at: datetime | None
    retired_at: datetime | None
    revoked: bool
    seen_at: datetime | None
    live_runs: int


class SlotList(BaseModel):
    """Every slot in the order of its number."""

    at: datetime
    slots: list[SlotRow]


@dataclass(frozen=True)
class Wanted:
    """Which runs: those of all that are given. ``projects`` are the only ones that may be told of; None: all."""

    projects: frozenset[UUID] | None = None
    state: State | None = None
    project: str | None = None
    trust: str | None = None
    text: str | None = None
    before: UUID | None = None
    count: int = 50


def runs(session: Session, wanted: Wanted, rule: SilenceRule) -> RunList:
    """The runs that are wanted, newest first; deleted ones are not among them."""
    conditions: list[ColumnElement[bool]] = [col(Model.deleted).is_(False)]
    scope: list[ColumnElement[bool]] = []
    if wanted.projects is not None:
        scope.append(col(Project.id).in_(wanted.projects))
    if wanted.state is not None:
        conditions.append(col(Model.status).in_(_STATES[wanted.state]))
    if wanted.project:
        conditions.append(col(Project.name) == wanted.project)
    if wanted.text:
        like = f"%{_literal(wanted.text.lower())}%"
        texts = (func.lower(Model.name), func.lower(Model.description), func.lower(Project.name))
        found = [text.like(like, escape="\\") for text in texts]
        conditions.append(or_(*found, _has_id(wanted.text)))
    if wanted.trust:
        conditions.append(_with_trust(wanted.trust))
    if wanted.before is not None:
        mark = session.exec(select(Model.created_at).where(col(Model.id) == wanted.before)).first()
        if mark is not None:
            older = col(Model.created_at) < mark
            conditions.append(or_(older, and_(col(Model.created_at) == mark, col(Model.id) < wanted.before)))
    now = utc_now()
    found_runs = session.exec(
        select(Model, Project.name)
        .join(Project, col(Project.id) == col(Model.project_id))
        .where(*conditions, *scope)
        .order_by(col(Model.created_at).desc(), col(Model.id).desc())
        .limit(wanted.count + 1)
    ).all()
    shown = found_runs[: wanted.count]
    ids = [model.id for model, _ in shown]
    history = _history(ids, session)
    sites = _site_counts(ids, session)
    live = any(model.status in _STATES["live"] for model, _ in shown)
    silent = {run.model_id: run for run in silent_runs(session, rule.unreachable_after, now)} if live else {}
    rows = []
    for model, project in shown:
        steps = history.get(model.id, [])
        number, total = _round(model.id, session)
        begun = [step.at for step in steps if step.status is ModelStatus.INITIATED]
        ended = [step.at for step in steps if step.status in TERMINAL_STATUSES]
        quiet = silent.get(model.id)
        hint = "" if quiet is None else words.silence(quiet.since, now)
        rows.append(
            RunRow(
                id=model.id,
                name=model.name,
                description=model.description,
                project=project,
                status=model.status,
                headline=_headline(model.status, steps, number, total, hint),
                round=number,
                total_rounds=total,
                sites=sites.get(model.id, 0),
                created_at=model.created_at,
                started_at=begun[-1] if begun else None,
                ended_at=ended[-1] if ended and model.status in TERMINAL_STATUSES else None,
                heard_at=model.heard_at,
            )
        )
    names = session.exec(select(Project.name).where(*scope).order_by(col(Project.name)).limit(500)).all()
    return RunList(at=now, runs=rows, more=len(found_runs) > wanted.count, projects=list(names))


def slots(session: Session) -> SlotList:
    """Every kit slot, who holds it, and when that trust was last heard of."""
    rows = session.exec(
        select(FlKitSlot, Trust)
        .outerjoin(Trust, col(Trust.id) == col(FlKitSlot.assigned_to_trust_id))
        .order_by(col(FlKitSlot.slot_number))
    ).all()
    recent = session.exec(
        select(Model.id)
        .where(col(Model.heard_at).is_not(None), col(Model.deleted).is_(False))
        .order_by(col(Model.heard_at).desc())
        .limit(RECENT_RUNS)
    ).all()
    seen: dict[UUID | None, datetime] = dict(
        session.exec(
            select(FlLog.trust_id, func.max(FlLog.log_date))
            .where(col(FlLog.model_id).in_(recent), col(FlLog.trust_id).is_not(None))
            .group_by(col(FlLog.trust_id))
        ).all()
    )
    live = dict(
        session.exec(
            select(ModelTrustIntersect.trust_id, func.count())
            .join(Model, col(Model.id) == col(ModelTrustIntersect.model_id))
            .where(col(Model.status).in_(_STATES["live"]), col(Model.deleted).is_(False))
            .group_by(col(ModelTrustIntersect.trust_id))
        ).all()
    )
    revoked = set(session.exec(select(SlotRevocation.slot_name)).all())
    return SlotList(
        at=utc_now(),
        slots=[
            SlotRow(
                slot=slot.slot_name,
                trust=None if trust is None else trust.name,
                code=None if trust is None else trust.code,
                assigned_at=slot.assigned_at,
                retired_at=slot.retired_at,
                revoked=slot.slot_name in revoked and trust is None,
                seen_at=None if trust is None else seen.get(trust.id),
                live_runs=0 if trust is None else live.get(trust.id, 0),
            )
            for slot, trust in rows
        ],
    )


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _has_id(text: str) -> ColumnElement[bool]:
    try:
        return col(Model.id) == UUID(text.strip())
    except ValueError:
        return col(Model.id).is_(None)


def _with_trust(name: str) -> ColumnElement[bool]:
    """Models in which a trust of this name or code, or the holder of this slot, takes part."""
    held = select(FlKitSlot.assigned_to_trust_id).where(col(FlKitSlot.slot_name) == name)
    trusts = select(Trust.id).where(or_(col(Trust.name) == name, col(Trust.code) == name, col(Trust.id).in_(held)))
    return exists().where(
        col(ModelTrustIntersect.model_id) == col(Model.id), col(ModelTrustIntersect.trust_id).in_(trusts)
    )


def _history(ids: Sequence[UUID], session: Session) -> dict[UUID, list[StatusHistory]]:
    steps: dict[UUID, list[StatusHistory]] = {}
    rows = session.exec(
        select(StatusHistory).where(col(StatusHistory.model_id).in_(ids)).order_by(col(StatusHistory.id))
    )
    for step in rows:
        steps.setdefault(step.model_id, []).append(step)
    return steps


def _site_counts(ids: Sequence[UUID], session: Session) -> dict[UUID, int]:
    return dict(
        session.exec(
            select(ModelTrustIntersect.model_id, func.count())
            .where(col(ModelTrustIntersect.model_id).in_(ids))
            .group_by(col(ModelTrustIntersect.model_id))
        ).all()
    )


def _round(model_id: UUID, session: Session) -> tuple[int | None, int | None]:
    """The newest round that began, and how many there are to be: one step back through an index."""
    found = session.exec(
        select(FlLog.global_round, FlLog.details)
        .where(col(FlLog.model_id) == model_id, col(FlLog.event_type) == EventType.ROUND_STARTED)
        .order_by(col(FlLog.id).desc())
        .limit(1)
    ).first()
    if found is None:
        return None, None
    try:
        details = json.loads(found[1] or "{}")
    except ValueError:
        details = {}
    return found[0], whole(details.get("total_rounds")) if isinstance(details, dict) else None


def _headline(
    status: ModelStatus, steps: Sequence[StatusHistory], number: int | None, total: int | None, hint: str
) -> Headline:
    newest = next((step for step in reversed(steps) if step.status is status), None)
    by = newest.by if newest is not None and newest.by != FL_SERVER else None
    reason = next(iter((newest.reason or "").strip().splitlines()), None) if newest is not None else None
    state = words.state_words(status, round_number=number, total_rounds=total, by=by, cause=reason)
    tone: words.Tone = "warn" if hint else state.tone
    text = f"{state.text} - {hint[0].lower()}{hint[1:]}" if hint else state.text
    return Headline(word=state.word, detail=state.detail, text=text, tone=tone, hint=hint)
