"""The story of a run, built from the hub's tables: what page and report are drawn from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from sqlmodel import Session, col, select

from flip_fl.dashboard.story import (
    FL_SERVER,
    SCHEMA,
    Failure,
    FeedRow,
    Loss,
    Silence,
    StoredResults,
    Story,
    StoryModel,
    StorySite,
    Transition,
)
from flip_fl.hub.curves import metric_rows, scored_in, series_names
from flip_fl.hub.feed import LogRow, log_rows
from flip_fl.hub.plots import StoredSeries, empty_plots, refused_values, stored_series, story_plots
from flip_fl.hub.rounds import story_rounds, total_rounds
from flip_fl.hub.silence import SilenceRule, silent_runs
from flip_fl.hub.tables import (
    EventLedger,
    FlJob,
    FlJobTrust,
    FlKitSlot,
    Model,
    ModelTrustIntersect,
    Project,
    StatusHistory,
    Trust,
    utc_now,
)
from flip_fl.hub.words import whole
from flip_fl.values import EventType, natural_key

_KINDS: Mapping[str, str] = {
    EventType.ROUND_STARTED: "round",
    EventType.CLIENT_RESULT_RECEIVED: "result",
    EventType.ROUND_AGGREGATED: "aggregated",
}
# Which points of its plots a story holds; as many as a page takes in without being slow are few.
Plots = Literal["points", "few", "listed"]
FEW_POINTS = 20_000
# How a site reports what it kept back.
_KEPT_BACK = re.compile(r"\bnot stored(?: \(\d+ times\))?$")
# How a sender begins a row about reports that were lost.
_LOSS = "reporting: "
_UNATTRIBUTED = "[unattributed client '"
# How the server tells of a model that no site was asked to evaluate.
_LEFT_OUT = re.compile(r"^model '[^']*' \(.*\) is not evaluated: ", re.DOTALL)
_TRACEBACK = "Traceback (most recent call last)"


def build_story(
    model_id: UUID, session: Session, *, rule: SilenceRule | None = None, plots: Plots = "points"
) -> Story | None:
    """Everything the hub knows of a run, deleted ones too; None if the model is absent.

    ``rule`` says when a run counts as unreachable; without one none does. ``plots`` ``listed`` leaves their points out,
    ``few`` does so when there are more than ``FEW_POINTS``.
    """
    found = session.exec(
        select(Model, Project.name)
        .join(Project, col(Project.id) == col(Model.project_id))
        .where(col(Model.id) == model_id)
    ).first()
    if found is None:
        return None
    model, project = found
    rows = log_rows(model_id, session)
    series, refused = stored_series(model_id, session), refused_values(model_id, session)
    names = series_names(model_id, session)
    sites = _sites(model_id, rows, series, session)
    failures = [row for row in rows if _kind(row) == "failure"]
    history = _history(model_id, session)
    now = utc_now()
    return Story(
        schema=SCHEMA,
        generated_at=now,
        model=StoryModel(id=str(model_id), name=model.name, description=model.description, project=project),
        status=model.status,
        reason=next((change.reason for change in reversed(history) if change.applied), None),
        total_rounds=total_rounds(rows),
        history=history,
        sites=sites,
        rounds=story_rounds(
            rows,
            failures,
            [site.slot for site in sites],
            scored_in(model_id, session),
            ended=model.status.is_terminal,
        ),
        plots=story_plots(metric_rows(model_id, session), refused, names)
        if plots == "points" or (plots == "few" and sum(one.points for one in series) <= FEW_POINTS)
        else empty_plots(series, refused, names),
        feed=[_feed_row(row) for row in sorted(rows, key=lambda row: (row.at, row.id))],
        failures=_failures(failures),
        results=_results(rows),
        unreachable=_unreachable(model_id, session, rule, now),
        losses=[
            Loss(at=row.at, text=row.text.removeprefix(_LOSS), slot=row.slot, round=row.global_round)
            for row in rows
            if _is_loss(row)
        ],
    )


def _unreachable(model_id: UUID, session: Session, rule: SilenceRule | None, now: datetime) -> Silence | None:
    found = [] if rule is None else silent_runs(session, rule.unreachable_after, now, model_id)
    if rule is None or not found:
        return None
    ends_at = None if rule.error_after is None else now + max(timedelta(0), rule.error_after - found[0].counted)
    return Silence(since=found[0].since, ends_at=ends_at)


def _is_loss(row: LogRow) -> bool:
    return not row.success and row.event_type is None and row.text.startswith(_LOSS)


def _history(model_id: UUID, session: Session) -> list[Transition]:
    changes = session.exec(
        select(StatusHistory).where(col(StatusHistory.model_id) == model_id).order_by(col(StatusHistory.id))
    ).all()
    late = session.exec(
        select(EventLedger)
        .where(col(EventLedger.model_id) == model_id, col(EventLedger.applied).is_(False))
        .order_by(col(EventLedger.occurred_at))
    ).all()
    history = [
        Transition(at=row.at, previous=row.previous, status=row.status, by=row.by, reason=row.reason) for row in changes
    ]
    for row in late:
        if row.status is None or row.occurred_at is None:
            continue
        ignored = Transition(
            at=row.occurred_at, previous=None, status=row.status, by=FL_SERVER, applied=False, reason=None
        )
        # Changes stand in the order in which they were made, whatever clocks say; what was ignored is put between.
        earlier = [number for number, change in enumerate(history) if change.at <= ignored.at]
        history.insert(earlier[-1] + 1 if earlier else len(history), ignored)
    return history


def _sites(model_id: UUID, rows: Sequence[LogRow], series: Sequence[StoredSeries], session: Session) -> list[StorySite]:
    """The slots of the newest job's trusts (without a job: of the model's), and whoever else was heard of."""
    job = session.exec(
        select(FlJob.id).where(col(FlJob.model_id) == model_id).order_by(col(FlJob.created_at).desc()).limit(1)
    ).first()
    members = (
        select(ModelTrustIntersect.trust_id).where(col(ModelTrustIntersect.model_id) == model_id)
        if job is None
        else select(FlJobTrust.trust_id).where(col(FlJobTrust.job_id) == job)
    )
    held = session.exec(
        select(FlKitSlot.slot_name, Trust.name, Trust.code)
        .join(Trust, col(Trust.id) == col(FlKitSlot.assigned_to_trust_id))
        .where(col(Trust.id).in_(members))
    ).all()
    trusts: dict[str, tuple[str, str | None]] = {slot: (name, code) for slot, name, code in held}
    seen: dict[str, datetime] = {}
    for row in rows:
        if row.slot is not None:
            trusts.setdefault(row.slot, (row.trust_name or row.slot, row.trust_code))
            seen[row.slot] = max(row.at, seen.get(row.slot, row.at))
    for one in series:
        if one.slot is not None:
            trusts.setdefault(one.slot, (one.trust_name, one.trust_code))
            seen[one.slot] = max(one.newest, seen.get(one.slot, one.newest))
    return [
        StorySite(slot=slot, trust=name, code=code, last_seen=seen.get(slot))
        for slot, (name, code) in sorted(trusts.items(), key=lambda item: natural_key(item[0]))
    ]


def _kind(row: LogRow) -> str:
    if row.status is not None:
        return "status"
    if row.event_type is not None:
        return _KINDS.get(row.event_type, "event")
    if row.success or _KEPT_BACK.search(row.text) or _is_loss(row):
        return "log"
    # Rows of the hub and the server that report a loss are no failure of anybody; a traceback is.
    marks = row.text.startswith(_UNATTRIBUTED) or _TRACEBACK in row.text or _LEFT_OUT.match(row.text) is not None
    reported = row.slot is not None or marks
    return "failure" if reported else "log"


def _feed_row(row: LogRow) -> FeedRow:
    return FeedRow(
        id=row.id,
        at=row.at,
        kind=_kind(row),
        text=row.text,
        success=row.success,
        slot=row.slot,
        round=row.global_round,
    )


def _failures(rows: Iterable[LogRow]) -> list[Failure]:
    """Equal texts are one failure, first seen when and where the first was."""
    groups: dict[str, list[LogRow]] = {}
    for row in rows:
        groups.setdefault(row.text.strip(), []).append(row)
    return [
        Failure(
            at=min(row.at for row in group),
            headline=headline(text),
            detail=text,
            slots=sorted({row.slot for row in group if row.slot is not None}, key=natural_key),
            round=group[0].global_round,
        )
        for text, group in groups.items()
    ]


def headline(text: str) -> str:
    """The line that says what happened: the exception's own after a traceback's last frame, else the last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return "no text"
    frames = [number for number, line in enumerate(lines) if line.startswith(" ")]
    after = lines[frames[-1] + 1 :] if frames and _TRACEBACK in text else []
    return (after[0] if after else lines[-1]).strip()


def _results(rows: Sequence[LogRow]) -> StoredResults | None:
    for row in reversed(rows):
        address = row.details.get("address")
        if row.event_type == EventType.RESULTS_STORED and isinstance(address, str):
            digest = row.details.get("sha256")
            return StoredResults(
                address=address,
                at=row.at,
                size_bytes=whole(row.details.get("size_bytes")),
                sha256=digest if isinstance(digest, str) else None,
            )
    return None
