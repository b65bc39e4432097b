"""Plain numbers of one site in one task, and events, written as they travel: no model is made of each of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter

from flip_fl import wire
from flip_fl.reporting.records import MAX_TOGETHER, Lane, Record, record_of

_ROUND = TypeAdapter(wire.Round)
_EVENT_ROUND = TypeAdapter(wire.EventRound)
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

Point = tuple[str, str | None, float | None]

# The last four of an id's 16 bytes count up from number to number; the first of their 32 bits is left 0, so that the
# count does not run over (RFC 9562, section 6.2).
_NOT_COUNTED = ~(1 << 31)


# What numbers that are measured again and again are called, by as many as may share an item: how many, and their names
# as JSON.
Heads = tuple[tuple[int, str], ...]


def heads_of(points: Iterable[Point]) -> Heads:
    """Of each point (label, x_label, x_value) what stands beside its number.

    Raises ``ValueError`` where ``wire.MetricItem`` refuses it.
    """
    points, parts = list(points), []
    for start in range(0, len(points), MAX_TOGETHER):
        some = points[start : start + MAX_TOGETHER]
        item = wire.MetricsItem(
            at=datetime.min,
            client="-",
            global_round=0,
            labels=[label for label, _, _ in some],
            results=[0.0] * len(some),
            x_labels=[axis for _, axis, _ in some] if any(axis is not None for _, axis, _ in some) else None,
            x_values=[x for _, _, x in some] if any(x is not None for _, _, x in some) else None,
        )
        names = {name for name in ("labels", "x_labels", "x_values") if getattr(item, name) is not None}
        parts.append((len(some), _ascii(item.model_dump_json(include=names))[1:-1]))
    return tuple(parts)


def plain_records(
    client: str, global_round: int, task: str | None, at: datetime, heads: Heads, values: Sequence[float]
) -> list[Record]:
    """The metrics ``heads``, measured as ``values`` (floats), under new ids; ``at`` is UTC.

    Raises ``ValueError`` for a number that is not finite, for fewer or more numbers than heads, and where
    ``wire.MetricsItem`` refuses what they share.
    """
    if len(values) != sum(count for count, _ in heads):
        raise ValueError("there must be as many numbers as heads")
    shared = f'"at":"{at.isoformat()}","global_round":{_ROUND.validate_python(global_round)},{_frame(client, task)}'
    first, place = wire.new_event_id().int & _NOT_COUNTED, 0
    records = []
    for count, names in heads:
        id_ = UUID(int=first + place)
        results = _JSON.encode(values[place : place + count])
        body = f'{{"id":"{id_}",{shared},{names},"results":{results}}}'
        if count == 1:
            # A row of one report is one that stands by itself on every route.
            (only,) = wire.MetricsItem.model_validate_json(body).metrics()
            records.append(record_of(only)._replace(shares=True))
        else:
            records.append(Record(id_.bytes, Lane.METRIC, body, reports=count, shares=True))
        place += count
    return records


def event_record(
    event_type: str, client: str | None, global_round: int | None, details: Mapping[str, Any] | None, at: datetime
) -> Record:
    """A typed event under a new id; ``at`` is UTC.

    Raises ``ValueError`` or ``TypeError`` where ``wire.EventItem`` refuses it, or JSON cannot carry ``details``.
    """
    facts = None if details is None else dict(details)
    written = "" if facts is None else _JSON.encode(facts)
    if "\\u" in written or not all(isinstance(name, str) for name in facts or ()):
        return record_of(
            wire.EventItem(at=at, event_type=event_type, client=client, global_round=global_round, details=facts)
        )
    wire.check_details(len(written))
    made = wire.new_event_id()
    number = "" if global_round is None else f',"global_round":{_EVENT_ROUND.validate_python(global_round)}'
    said = f',"details":{written}' if written else ""
    head = f'{{"id":"{made}","at":"{at.isoformat()}",'
    body = f"{head}{_event_frame(event_type, client, global_round is None)}{number}{said}}}"
    # What looks like the beginning of another report must not stand among several.
    return Record(made.bytes, Lane.EVENT, body, shares='{"id":"' not in written)


@lru_cache(maxsize=1024)
def _event_frame(event_type: str, client: str | None, roundless: bool) -> str:
    """What a site's events of one type share whatever their round and details."""
    item = wire.EventItem(at=datetime.min, event_type=event_type, client=client, global_round=None if roundless else 1)
    return _ascii(item.model_dump_json(include={"kind", "event_type", "client"}, exclude_none=True))[1:-1]


@lru_cache(maxsize=1024)
def _frame(client: str, task: str | None) -> str:
    """What a site's numbers of one task share whatever their round; see ``plain_records``."""
    item = wire.MetricsItem(at=datetime.min, client=client, global_round=0, labels=["-"], results=[0.0], task=task)
    return _ascii(item.model_dump_json(include={"kind", "client", "task"}, exclude_none=True))[1:-1]


def _ascii(text: str) -> str:
    """JSON as the outbox keeps it: its length in characters is its length in bytes."""
    return text if text.isascii() else json.dumps(json.loads(text), separators=(",", ":"))
