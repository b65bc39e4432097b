"""What is new in a run, for whoever watches it: folded once for all of them, told from the place where each one is.

Nothing is kept for a watcher. A run's fold is kept while somebody watches and is made anew from its rows by any
process, so several hubs may serve one database, and a restart loses nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from flip_fl.dashboard.delta import Again, Delta, NewPoints
from flip_fl.dashboard.story import SCHEMA, Silence, Story, StoryModel, StorySite, Transition
from flip_fl.hub import database
from flip_fl.hub.clocks import Clocks
from flip_fl.hub.cursor import Cursor, late_statuses
from flip_fl.hub.curves import MetricRow, SeriesNames, metrics_after, scored_in, series_names
from flip_fl.hub.feed import LogRow, log_rows
from flip_fl.hub.plots import refused_label
from flip_fl.hub.rounds import Rounds
from flip_fl.hub.silence import LIVE, SilenceRule
from flip_fl.hub.story import (
    feed_row,
    grouped,
    is_loss,
    kind_of,
    losses_of,
    members,
    queue_position,
    results_of,
    status_history,
    unreachable,
)
from flip_fl.hub.tables import Model, utc_now
from flip_fl.values import DEFAULT_X_LABEL, EventType, ModelStatus, Task, natural_key


@dataclass(frozen=True)
class Face:
    """What can change of a run without a new row."""

    status: ModelStatus
    unreachable: Silence | None


@dataclass
class _Fold:
    """Rows of a run that the page's parts are made of, and where the newest of each kind stands."""

    rounds: Rounds = field(default_factory=Rounds)
    clocks: Clocks = field(default_factory=Clocks)
    failures: list[LogRow] = field(default_factory=list)
    losses: list[LogRow] = field(default_factory=list)
    stored: list[LogRow] = field(default_factory=list)
    queued: list[LogRow] = field(default_factory=list)
    scored: dict[int, set[str]] = field(default_factory=dict)
    history: list[Transition] = field(default_factory=list)
    slots: set[str] = field(default_factory=set)
    names: SeriesNames = field(default_factory=lambda: SeriesNames({}, frozenset()))
    status_row: int = 0
    # Whoever is behind this place must read the story anew.
    anew: Cursor = field(default_factory=lambda: Cursor(0, 0, 0))


# What stands in a story alone, and is told once or twice in a run.
_READ_ANEW = frozenset({EventType.RUN_CONFIGURED, EventType.SITES_AWAITED})


class LiveRun:
    """One run as it is now. Its methods may be called from any thread."""

    def __init__(self, model_id: UUID, engine: Engine, rule: SilenceRule) -> None:
        self.model_id = model_id
        self._engine = engine
        self._rule = rule
        self._lock = threading.Lock()
        self._fold: _Fold | None = None
        self._cursor = Cursor(0, 0, 0)
        self._face: Face | None = None
        self._last: tuple[Cursor, Cursor, Face, Delta | Again] | None = None

    def refresh(self) -> tuple[Cursor, Face] | None:
        """Read what is new; returns the newest place and face, None once the run is deleted."""
        with self._lock, database.reading(self._engine) as session:
            model = session.exec(select(Model).where(col(Model.id) == self.model_id)).first()
            if model is None or model.deleted:
                self._face = None
                return None
            now = utc_now()
            silent = unreachable(self.model_id, session, self._rule, now) if model.status in LIVE else None
            # Until when a rule waits moves with every look by less than a second: only its first word counts.
            if silent is not None and self._face is not None and self._face.unreachable is not None:
                silent = self._face.unreachable if self._face.unreachable.since == silent.since else silent
            self._face = Face(model.status, silent)
            end = Cursor.at_end(self.model_id, session, late_statuses(self.model_id, model.status, session))
            if self._fold is None:
                self._fold = _Fold(scored=scored_in(self.model_id, session), names=series_names(self.model_id, session))
                self._fold.slots = set(members(self.model_id, session))
                self._take(log_rows(self.model_id, session, in_words=0), [], session)
            elif end != self._cursor:
                rows = log_rows(self.model_id, session, after=self._cursor.log)
                metrics = metrics_after(self.model_id, self._cursor.metric, end.metric, session)
                self._take(rows, metrics, session, at=end)
            if end.late != self._cursor.late:
                self._fold.history = status_history(self.model_id, session)
            self._cursor = end
            return end, self._face

    def since(self, place: Cursor) -> Delta | Again | None:
        """What is newer than ``place``, as of the last ``refresh``; ``Again`` where that cannot be told, None if
        the run is deleted."""
        with self._lock:
            if self._fold is None or self._face is None:
                return None
            end, face = self._cursor, self._face
            if self._last is not None and self._last[:3] == (place, end, face):
                return self._last[3]
            told = self._told(place, end, face, self._fold)
            self._last = (place, end, face, told)
            return told

    def _take(
        self, rows: Sequence[LogRow], metrics: Sequence[MetricRow], session: Session, at: Cursor | None = None
    ) -> None:
        fold = self._fold
        assert fold is not None
        anew = False
        for row in rows:
            anew |= fold.rounds.take(row) or row.event_type in _READ_ANEW
            fold.clocks.take(row)
            if kind_of(row) == "failure":
                fold.failures.append(row)
                fold.rounds.fail(row)
            elif is_loss(row):
                fold.losses.append(row)
            elif row.event_type == EventType.RESULTS_STORED:
                fold.stored = [row]
            elif row.event_type == EventType.QUEUE_POSITION:
                fold.queued = [row]
            if row.status is not None:
                fold.status_row = row.id
            if at is None and row.slot is not None:
                fold.slots.add(row.slot)
        for metric in metrics:
            if metric.slot is not None and metric.task == Task.VALIDATE:
                fold.scored.setdefault(metric.global_round, set()).add(metric.slot)
                fold.rounds.score(metric.global_round, metric.id)
        if at is None or any(row.status is not None for row in rows):
            fold.history = status_history(self.model_id, session)
            fold.names = series_names(self.model_id, session)
            who = set(members(self.model_id, session))
            anew |= not who <= fold.slots
            fold.slots |= who
        heard = {row.slot for row in rows if row.slot is not None}
        heard |= {metric.slot for metric in metrics if metric.slot is not None}
        if at is not None and (anew or not heard <= fold.slots):
            fold.slots |= heard
            fold.anew = at

    def _told(self, place: Cursor, end: Cursor, face: Face, fold: _Fold) -> Delta | Again:
        behind = place.log < fold.anew.log or place.metric < fold.anew.metric
        ahead = place.log > end.log or place.metric > end.metric
        if behind or ahead:
            return Again()
        with database.reading(self._engine) as session:
            rows = [row for row in log_rows(self.model_id, session, after=place.log) if row.id <= end.log]
            metrics = metrics_after(self.model_id, place.metric, end.metric, session)
        slots = sorted(fold.slots, key=natural_key)
        changed = fold.rounds.changed_since(place.log, place.metric)
        ended = face.status.is_terminal
        now = utc_now()
        history_changed = fold.status_row > place.log or end.late != place.late
        results = results_of(fold.stored)
        position = queue_position(fold.queued, face.status)
        story = Story(
            schema=SCHEMA,
            generated_at=now,
            model=StoryModel(id=str(self.model_id), name=""),
            status=face.status,
            reason=next((change.reason for change in reversed(fold.history) if change.applied), None),
            total_rounds=fold.rounds.total,
            history=fold.history,
            sites=[StorySite(slot=slot, trust=slot) for slot in slots],
            rounds=[
                *fold.rounds.table([], {}, ended=ended, but=fold.rounds.newest),
                *fold.rounds.table(slots, fold.scored, ended=ended, only={fold.rounds.newest}),
            ],
            failures=grouped(fold.failures),
            unreachable=face.unreachable,
            queue_position=position,
        )
        return Delta(
            since=str(place),
            cursor=str(end),
            at=now,
            status=face.status,
            headline=story.headline,
            reason=story.reason,
            total_rounds=story.total_rounds,
            queue_position=position,
            unreachable=face.unreachable,
            history=fold.history if history_changed else None,
            failures=story.failures if _newer(fold.failures, place) else None,
            losses=losses_of(fold.losses) if _newer(fold.losses, place) else None,
            results=results if _newer(fold.stored, place) else None,
            skews=fold.clocks.skews(),
            rounds=fold.rounds.table(slots, fold.scored, ended=ended, only=changed),
            feed=[feed_row(row) for row in rows],
            points=[*self._points(metrics, fold), *_refused(rows)],
            seen=_seen(rows, metrics, fold.clocks.lead),
        )

    def _points(self, metrics: Sequence[MetricRow], fold: _Fold) -> list[NewPoints]:
        found: dict[tuple[str, str, str, str, bool], list[tuple[float, float | None, int]]] = {}
        for metric in metrics:
            again = fold.rounds.attempt(metric.global_round) > 1
            key = (
                metric.label,
                metric.x_label,
                metric.slot or str(metric.trust_id),
                fold.names.of(metric.trust_id, metric.slot),
                again,
            )
            found.setdefault(key, []).append((metric.x_value, metric.result, metric.global_round))
        return [
            NewPoints(label=label, x_label=x_label, slot=slot, name=name, again=again, points=points)
            for (label, x_label, slot, name, again), points in found.items()
        ]


def _newer(rows: Sequence[LogRow], place: Cursor) -> bool:
    return bool(rows) and rows[-1].id > place.log


def _refused(rows: Iterable[LogRow]) -> list[NewPoints]:
    found = []
    for row in rows:
        label = None if row.success else refused_label(row.text)
        if label is None or row.slot is None or row.global_round is None:
            continue
        name = row.trust_code or row.trust_name or row.slot
        point = (float(row.global_round), None, row.global_round)
        found.append(NewPoints(label=label, x_label=DEFAULT_X_LABEL, slot=row.slot, name=name, points=[point]))
    return found


def _seen(rows: Iterable[LogRow], metrics: Iterable[MetricRow], lead: timedelta) -> dict[str, datetime]:
    seen: dict[str, datetime] = {}
    for slot, at in [*((row.slot, row.at) for row in rows), *((metric.slot, metric.at - lead) for metric in metrics)]:
        if slot is not None:
            seen[slot] = max(at, seen.get(slot, at))
    return seen
