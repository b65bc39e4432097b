"""The story of a run, built from the hub's tables: what page and report are drawn from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from pydantic import ValidationError
from sqlmodel import Session, col, select

from flip_fl.dashboard.story import (
    FL_SERVER,
    SCHEMA,
    Awaited,
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
from flip_fl.hub.clocks import Clocks
from flip_fl.hub.cursor import Cursor, late_statuses
from flip_fl.hub.curves import metric_rows, scored_in, series_names, superseded
from flip_fl.hub.feed import LogRow, log_rows
from flip_fl.hub.plots import StoredSeries, empty_plots, refused_values, stored_series, story_plots
from flip_fl.hub.rounds import Rounds
from flip_fl.hub.silence import SilenceRule, silent_runs
from flip_fl.hub.tables import (
    EventLedger,
    FlJob,
    FlJobTrust,
    FlKitSlot,
    FlLog,
    Model,
    ModelTrustIntersect,
    Project,
    StatusHistory,
    Trust,
    utc_now,
)
from flip_fl.hub.words import settings_of, whole
from flip_fl.values import SKIPPING, EventType, ModelStatus, natural_key

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
    model_id: UUID,
    session: Session,
    *,
    rule: SilenceRule | None = None,
    plots: Plots = "points",
    feed: int | None = None,
    rows_at_once: int | None = None,
) -> Story | None:
    """Everything the hub knows of a run, deleted ones too; None if the model is absent.

    ``rule`` says when a run counts as unreachable; without one none does. ``plots`` ``listed`` leaves their points out,
    ``few`` does so when there are more than ``FEW_POINTS``; ``feed`` is how many of the newest lines are told.
    A run of more than ``rows_at_once`` rows is told ``partial``: at once, without what its rows say.
    """
    found = session.exec(
        select(Model, Project.name)
        .join(Project, col(Project.id) == col(Model.project_id))
        .where(col(Model.id) == model_id)
    ).first()
    if found is None:
        return None
    model, project = found
    partial = rows_at_once is not None and has_more(model_id, rows_at_once, session)
    rows = _newest_start(model_id, session) if partial else log_rows(model_id, session, in_words=feed)
    series, refused = stored_series(model_id, session), refused_values(model_id, session)
    names = series_names(model_id, session)
    clocks = Clocks(rows)
    sites = _sites(model_id, rows, series, clocks.lead, session)
    failures = [row for row in rows if kind_of(row) == "failure"]
    history = status_history(model_id, session)
    rounds = Rounds(rows, failures)
    slots = [site.slot for site in sites]
    now = utc_now()
    return Story(
        schema=SCHEMA,
        generated_at=now,
        model=StoryModel(
            id=str(model_id),
            name=model.name,
            description=model.description,
            project=project,
            settings=settings_told(rows),
        ),
        status=model.status,
        reason=next((change.reason for change in reversed(history) if change.applied), None),
        total_rounds=rounds.total,
        history=history,
        sites=sites,
        rounds=rounds.table(
            slots,
            scored_in(model_id, session, {rounds.newest} if partial else None),
            ended=model.status.is_terminal,
        ),
        plots=story_plots(metric_rows(model_id, session), refused, names, superseded(model_id, session))
        if plots == "points" or (plots == "few" and sum(one.points for one in series) <= FEW_POINTS)
        else empty_plots(series, refused, names),
        feed=[feed_row(row) for row in sorted(rows[-(feed or len(rows)) :], key=lambda row: (row.at, row.id))],
        feed_more=feed is not None and len(rows) > feed,
        partial=partial,
        failures=grouped(failures),
        results=results_of(rows),
        unreachable=unreachable(model_id, session, rule, now),
        awaited=sites_awaited(rows) if model.status is ModelStatus.INITIATED else None,
        losses=losses_of(rows),
        skews=clocks.skews(),
        cursor=str(Cursor.at_end(model_id, session, late_statuses(model_id, model.status, session))),
        queue_position=queue_position(rows, model.status),
    )


def has_more(model_id: UUID, most: int, session: Session) -> bool:
    """Whether the model has more than ``most`` rows."""
    query = select(FlLog.id).where(col(FlLog.model_id) == model_id).order_by(col(FlLog.id)).offset(most).limit(1)
    return session.exec(query).first() is not None


def _newest_start(model_id: UUID, session: Session) -> list[LogRow]:
    """The row with which the newest round began: one step back through an index."""
    newest = session.exec(
        select(FlLog.id)
        .where(col(FlLog.model_id) == model_id, col(FlLog.event_type) == EventType.ROUND_STARTED)
        .order_by(col(FlLog.id).desc())
        .limit(1)
    ).first()
    return [] if newest is None else log_rows(model_id, session, after=newest - 1, before=newest + 1)


def settings_told(rows: Sequence[LogRow]) -> dict[str, str]:
    """The run's settings as its server last told them."""
    told = [row.details for row in rows if row.event_type == EventType.RUN_CONFIGURED]
    return settings_of(told[-1]) if told else {}


def sites_awaited(rows: Sequence[LogRow]) -> Awaited | None:
    """For whom the run's server said last that it waits; None where it said nothing that can be read."""
    told = [row.details for row in rows if row.event_type == EventType.SITES_AWAITED]
    try:
        return Awaited.model_validate(told[-1]) if told else None
    except ValidationError:
        return None


def queue_position(rows: Sequence[LogRow], status: ModelStatus) -> int | None:
    """The run's place in the queue as the hub last said it; None unless it waits for its turn."""
    if status is not ModelStatus.INITIATED:
        return None
    told = [whole(row.details.get("position")) for row in rows if row.event_type == EventType.QUEUE_POSITION]
    return told[-1] if told else None


def losses_of(rows: Iterable[LogRow]) -> list[Loss]:
    """What was reported and never came, as whoever counted it says."""
    return [
        Loss(at=row.at, text=row.text.removeprefix(_LOSS), slot=row.slot, round=row.global_round)
        for row in rows
        if is_loss(row)
    ]


def unreachable(model_id: UUID, session: Session, rule: SilenceRule | None, now: datetime) -> Silence | None:
    """Since when the FL server is not heard of, if the rule calls that silent; None otherwise."""
    found = [] if rule is None else silent_runs(session, rule.unreachable_after, now, model_id)
    if rule is None or not found:
        return None
    ends_at = None if rule.error_after is None else now + max(timedelta(0), rule.error_after - found[0].counted)
    return Silence(since=found[0].since, ends_at=ends_at)


def is_loss(row: LogRow) -> bool:
    """Whether the row tells of reports that were lost."""
    return not row.success and row.event_type is None and row.text.startswith(_LOSS)


def status_history(model_id: UUID, session: Session) -> list[Transition]:
    """Every change of the status, and the late ones that were ignored, put where they came."""
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


def members(model_id: UUID, session: Session) -> dict[str, tuple[str, str | None]]:
    """Slot → name and code of its trust, for the trusts of the newest job, without a job: of the model."""
    job = session.exec(
        select(FlJob.id).where(col(FlJob.model_id) == model_id).order_by(col(FlJob.created_at).desc()).limit(1)
    ).first()
    trusts = (
        select(ModelTrustIntersect.trust_id).where(col(ModelTrustIntersect.model_id) == model_id)
        if job is None
        else select(FlJobTrust.trust_id).where(col(FlJobTrust.job_id) == job)
    )
    held = session.exec(
        select(FlKitSlot.slot_name, Trust.name, Trust.code)
        .join(Trust, col(Trust.id) == col(FlKitSlot.assigned_to_trust_id))
        .where(col(Trust.id).in_(trusts))
    ).all()
    return {slot: (name, code) for slot, name, code in held}


def _sites(
    model_id: UUID, rows: Sequence[LogRow], series: Sequence[StoredSeries], lead: timedelta, session: Session
) -> list[StorySite]:
    """The members' slots, and whoever else was heard of; ``lead``: how far the FL server's clock is ahead."""
    trusts = members(model_id, session)
    seen: dict[str, datetime] = {}
    for row in rows:
        if row.slot is not None:
            trusts.setdefault(row.slot, (row.trust_name or row.slot, row.trust_code))
            seen[row.slot] = max(row.at, seen.get(row.slot, row.at))
    for one in series:
        if one.slot is not None:
            trusts.setdefault(one.slot, (one.trust_name, one.trust_code))
            newest = min(one.newest - lead, utc_now())
            seen[one.slot] = max(newest, seen.get(one.slot, newest))
    return [
        StorySite(slot=slot, trust=name, code=code, last_seen=seen.get(slot))
        for slot, (name, code) in sorted(trusts.items(), key=lambda item: natural_key(item[0]))
    ]


def kind_of(row: LogRow) -> str:
    """What kind of line a row is in the feed."""
    if row.status is not None:
        return "status"
    if row.event_type is not None:
        return _KINDS.get(row.event_type, "event")
    if row.success or _KEPT_BACK.search(row.text) or SKIPPING.match(row.text) or is_loss(row):
        return "log"
    # Rows of the hub and the server that report a loss are no failure of anybody; a traceback is.
    marks = row.text.startswith(_UNATTRIBUTED) or _TRACEBACK in row.text or _LEFT_OUT.match(row.text) is not None
    reported = row.slot is not None or marks
    return "failure" if reported else "log"


def feed_row(row: LogRow) -> FeedRow:
    """A row as a line of the feed."""
    return FeedRow(
        id=row.id,
        at=row.at,
        kind=kind_of(row),
        text=row.text,
        success=row.success,
        slot=row.slot,
        round=row.global_round,
    )


def grouped(rows: Iterable[LogRow]) -> list[Failure]:
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


def results_of(rows: Sequence[LogRow]) -> StoredResults | None:
    """What the newest upload said of itself; None without one."""
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
