"""The grid of rounds and sites, drawn from a model's typed events and failures."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from flip_fl.dashboard.story import Cell, CellState, StoryRound
from flip_fl.hub.feed import LogRow
from flip_fl.hub.words import stage_of, whole
from flip_fl.values import EventType


@dataclass
class _Round:
    started_at: datetime | None = None
    stage: str | None = None
    task: str | None = None
    aggregated_at: datetime | None = None
    returned: int | None = None
    expected: int | None = None
    results: dict[str, LogRow] = field(default_factory=dict)


def total_rounds(rows: Iterable[LogRow]) -> int | None:
    """How many rounds the run was to have, as its newest round said; None before the first."""
    totals = [whole(row.details.get("total_rounds")) for row in rows if row.event_type == EventType.ROUND_STARTED]
    known = [total for total in totals if total is not None]
    return known[-1] if known else None


def story_rounds(
    rows: Sequence[LogRow],
    failures: Sequence[LogRow],
    slots: Sequence[str],
    scored: Mapping[int, Collection[str]],
    *,
    ended: bool,
) -> list[StoryRound]:
    """The rounds in order, each with one cell per slot; ``ended`` when no round is open any more.

    ``scored``: round → the slots that have measured its new model.
    """
    rounds = _collect(rows)
    failed = {(row.global_round, row.slot): row for row in failures if row.slot is not None}
    newest = max(rounds, default=0)
    return [
        StoryRound(
            number=number,
            stage=facts.stage,
            task=facts.task,
            started_at=facts.started_at,
            aggregated_at=facts.aggregated_at,
            returned=facts.returned,
            expected=facts.expected,
            cells=[
                _cell(
                    slot,
                    facts,
                    failed.get((number, slot)),
                    closed=ended or number < newest or facts.aggregated_at is not None,
                )
                for slot in slots
            ],
            scored=[slot for slot in slots if slot in scored.get(number, ())],
        )
        for number, facts in sorted(rounds.items())
    ]


def _collect(rows: Iterable[LogRow]) -> dict[int, _Round]:
    rounds: dict[int, _Round] = {}
    for row in rows:
        if row.global_round is None:
            continue
        match row.event_type:
            case EventType.ROUND_STARTED:
                # A round that starts again (a run queued anew) forgets what came of it before.
                rounds[row.global_round] = _Round(row.at, stage_of(row.details), _text(row, "task"))
            case EventType.CLIENT_RESULT_RECEIVED if row.slot is not None:
                rounds.setdefault(row.global_round, _Round()).results.setdefault(row.slot, row)
            case EventType.ROUND_AGGREGATED:
                facts = rounds.setdefault(row.global_round, _Round())
                facts.aggregated_at = row.at
                facts.returned = whole(row.details.get("returned"))
                facts.expected = whole(row.details.get("expected"))
    return rounds


def _text(row: LogRow, key: str) -> str | None:
    value = row.details.get(key)
    return value if isinstance(value, str) and value else None


def _cell(slot: str, facts: _Round, failure: LogRow | None, *, closed: bool) -> Cell:
    result = facts.results.get(slot)
    if result is not None:
        late = facts.aggregated_at is not None and result.at > facts.aggregated_at
        return Cell(
            slot=slot,
            state="late" if late else "returned",
            at=result.at,
            size_bytes=whole(result.details.get("size_bytes")),
            seconds=None if facts.started_at is None else max(0.0, (result.at - facts.started_at).total_seconds()),
        )
    state: CellState
    if failure is not None:
        state = "failed"
    elif not closed or facts.started_at is None or facts.expected == 0:
        # Of an open round nothing is decided yet; of one that expected nobody nothing was to come.
        state = "not_asked"
    else:
        state = "missed"
    return Cell(slot=slot, state=state, at=failure.at if failure else None)
