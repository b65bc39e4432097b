"""The grid of rounds and sites, drawn from a model's typed events and failures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from flip_fl.dashboard.story import Cell, CellState, SiteUpdate, StoryRound
from flip_fl.hub.feed import LogRow
from flip_fl.hub.updates import PLAIN, label_counts, site_updates
from flip_fl.hub.words import stage_of, whole
from flip_fl.values import EventType


@dataclass(frozen=True, slots=True)
class _Result:
    at: datetime
    size_bytes: int | None
    worked: float | None
    computed: float | None
    labels: Mapping[str, int | Literal["withheld"]]


@dataclass(slots=True)
class _Round:
    """``changed`` and ``scored`` are the ids of the newest row and of the newest metric that changed it."""

    changed: int = 0
    scored: int = 0
    attempt: int = 1
    started_at: datetime | None = None
    stage: str | None = None
    task: str | None = None
    aggregated_at: datetime | None = None
    returned: int | None = None
    expected: int | None = None
    results: dict[str, _Result] = field(default_factory=dict)
    failed: dict[str, datetime] = field(default_factory=dict)
    updates: dict[str, SiteUpdate] = field(default_factory=dict)
    plain: bool = False


class Rounds:
    """A run's rounds, folded from its rows one by one, in the order in which they were stored."""

    def __init__(self, rows: Iterable[LogRow] = (), failures: Iterable[LogRow] = ()) -> None:
        self._rounds: dict[int, _Round] = {}
        self.total: int | None = None
        for row in rows:
            self.take(row)
        for row in failures:
            self.fail(row)

    @property
    def newest(self) -> int:
        """The number of the newest round; 0 before the first."""
        return max(self._rounds, default=0)

    def take(self, row: LogRow) -> bool:
        """Fold one row; True when it started a round anew that had been started before."""
        if row.status is not None:
            # What is still open is decided by the end of the run.
            for facts in self._rounds.values():
                if facts.aggregated_at is None:
                    facts.changed = row.id
        if row.event_type == EventType.ROUND_STARTED:
            total = whole(row.details.get("total_rounds"))
            self.total = self.total if total is None else total
        if row.global_round is None:
            return False
        match row.event_type:
            case EventType.ROUND_STARTED:
                return self._start(row, row.global_round)
            case EventType.CLIENT_RESULT_RECEIVED if row.slot is not None:
                facts = self._touched(row.global_round, row.id)
                facts.results.setdefault(row.slot, _result(row))
            case EventType.ROUND_AGGREGATED:
                facts = self._touched(row.global_round, row.id)
                facts.aggregated_at = row.at
                facts.returned = whole(row.details.get("returned"))
                facts.expected = whole(row.details.get("expected"))
            case EventType.UPDATES_COMPARED:
                facts = self._touched(row.global_round, row.id)
                facts.plain = row.details.get("mean") == PLAIN
                facts.updates |= site_updates(row.details)
        return False

    def fail(self, row: LogRow) -> None:
        """Fold a row that is a failure; one of no site or no round changes no cell."""
        facts = None if row.global_round is None else self._rounds.get(row.global_round)
        if facts is None or row.slot is None:
            return
        if facts.attempt > 1 and facts.started_at is not None and row.at < facts.started_at:
            return
        facts.failed[row.slot] = row.at
        facts.changed = max(facts.changed, row.id)

    def score(self, number: int, metric_id: int) -> None:
        """Note that a round's model was measured by a metric of this id."""
        if number in self._rounds:
            self._rounds[number].scored = metric_id

    def attempt(self, number: int) -> int:
        """Which attempt at a round is the newest."""
        return self._rounds[number].attempt if number in self._rounds else 1

    def changed_since(self, row_id: int, metric_id: int) -> set[int]:
        """The rounds that a row or a metric newer than these changed."""
        return {number for number, facts in self._rounds.items() if facts.changed > row_id or facts.scored > metric_id}

    def table(
        self,
        slots: Sequence[str],
        scored: Mapping[int, Collection[str]],
        *,
        ended: bool,
        only: Collection[int] | None = None,
        but: int | None = None,
    ) -> list[StoryRound]:
        """The rounds in order (``only`` some, all ``but`` one), each with one cell per slot; ``ended``: none is open.

        ``scored``: round → the slots that have measured its new model.
        """
        newest = self.newest
        return [
            StoryRound(
                number=number,
                stage=facts.stage,
                task=facts.task,
                attempt=facts.attempt,
                started_at=facts.started_at,
                aggregated_at=facts.aggregated_at,
                returned=facts.returned,
                expected=facts.expected,
                cells=[
                    _cell(slot, facts, closed=ended or number < newest or facts.aggregated_at is not None)
                    for slot in slots
                ],
                scored=[slot for slot in slots if slot in scored.get(number, ())],
                updates=[update for slot in slots if (update := _update(slot, facts)) is not None],
                mean="plain" if facts.plain else "weighted",
            )
            for number, facts in sorted(self._rounds.items())
            if (only is None or number in only) and number != but
        ]

    def _start(self, row: LogRow, number: int) -> bool:
        before = self._rounds.get(number)
        again = before is not None and before.started_at is not None
        attempt = before.attempt + 1 if before is not None and again else 1
        for facts in self._rounds.values():
            # A round that was open is closed by the next one.
            if facts.aggregated_at is None:
                facts.changed = row.id
        # A round that starts again (a run queued anew) forgets what came of it before.
        task = row.details.get("task")
        self._rounds[number] = _Round(
            changed=row.id,
            attempt=attempt,
            started_at=row.at,
            stage=stage_of(row.details),
            task=task if isinstance(task, str) and task else None,
        )
        return again

    def _touched(self, number: int, row_id: int) -> _Round:
        facts = self._rounds.setdefault(number, _Round())
        facts.changed = row_id
        return facts


def _result(row: LogRow) -> _Result:
    details = row.details
    return _Result(
        at=row.at,
        size_bytes=whole(details.get("size_bytes")),
        worked=_seconds(details.get("seconds")),
        computed=_seconds(details.get("computed")),
        labels=label_counts(details.get("labels")),
    )


def _update(slot: str, facts: _Round) -> SiteUpdate | None:
    """What a site has contributed; what it said of its labels came with its result, the rest from who compared all."""
    update, result = facts.updates.get(slot), facts.results.get(slot)
    if result is None or not result.labels:
        return update
    return (update or SiteUpdate(slot=slot)).model_copy(update={"labels": dict(result.labels)})


def _seconds(value: object) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
    return float(value) if usable and isinstance(value, int | float) else None


def _cell(slot: str, facts: _Round, *, closed: bool) -> Cell:
    result = facts.results.get(slot)
    if result is not None:
        late = facts.aggregated_at is not None and result.at > facts.aggregated_at
        return Cell(
            slot=slot,
            state="late" if late else "returned",
            at=result.at,
            size_bytes=result.size_bytes,
            seconds=None if facts.started_at is None else max(0.0, (result.at - facts.started_at).total_seconds()),
            worked=result.worked,
            computed=result.computed,
        )
    failure = facts.failed.get(slot)
    state: CellState
    if failure is not None:
        state = "failed"
    elif not closed or facts.started_at is None or facts.expected == 0:
        # Of an open round nothing is decided yet; of one that expected nobody nothing was to come.
        state = "not_asked"
    else:
        state = "missed"
    return Cell(slot=slot, state=state, at=failure)
