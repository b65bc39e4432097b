"""Plain numbers of one site in one task, and events, written as they travel: no model is made of each of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter

from flip_fl import wire
from flip_fl.reporting.records import MAX_TOGETHER, Lane, Record, record_of

_ROUND = TypeAdapter(wire.Round)
_EVENT_ROUND = TypeAdapter(wire.EventRound)
_DETAILS = json.JSONEncoder(separators=(",", ":"), allow_nan=False)

Point = tuple[str, str | None, float | None]

# The last four of an id's 16 bytes count up from number to number (RFC 9562, section 6.2); the first of their 32 bits
# is left 0, so that the count does not run over.
_COUNTED = 32
_NOT_COUNTED_CHARS = 36 - _COUNTED // 4


def heads_of(points: Iterable[Point]) -> tuple[str, ...]:
    """Of each point (label, x_label, x_value) what stands before its number.

    Raises ``ValueError`` where ``wire.MetricItem`` refuses it.
    """
    heads = []
    for label, x_label, x_value in points:
        item = wire.MetricItem(
            at=datetime.min, client="-", global_round=0, label=label, result=0.0, x_label=x_label, x_value=x_value
        )
        facts = item.model_dump_json(include={"label", "x_label", "x_value"}, exclude_none=True)
        heads.append(f'",{_ascii(facts)[1:-1]},"result":')
    return tuple(heads)


def plain_records(
    client: str, global_round: int, task: str | None, at: datetime, heads: Sequence[str], values: Sequence[float]
) -> list[Record]:
    """The metrics ``heads``, measured as ``values`` (floats), under new ids; ``at`` is UTC.

    Raises ``ValueError`` for a number that is not finite, and where ``wire.MetricItem`` refuses what they share.
    """
    if not heads:
        return []
    if not all(map(math.isfinite, values)):
        raise ValueError("a metric must be finite")
    tail = f',"at":"{at.isoformat()}","global_round":{_ROUND.validate_python(global_round)},{_frame(client, task)}'
    made = wire.new_event_id()
    first = made.int & ~(1 << (_COUNTED - 1))
    start, count = f'{{"id":"{str(made)[:_NOT_COUNTED_CHARS]}', first & (1 << _COUNTED) - 1
    bodies = [
        f"{start}{number:08x}{head}{value}{tail}"
        for number, head, value in zip(range(count, count + len(heads)), heads, values, strict=True)
    ]
    return [
        Record(
            (first + place).to_bytes(16, "big"),
            Lane.METRIC,
            ",".join(bodies[place : place + MAX_TOGETHER]),
            reports=min(MAX_TOGETHER, len(bodies) - place),
            once=True,
        )
        for place in range(0, len(bodies), MAX_TOGETHER)
    ]


def event_record(
    event_type: str, client: str | None, global_round: int | None, details: Mapping[str, Any] | None, at: datetime
) -> Record:
    """A typed event under a new id; ``at`` is UTC.

    Raises ``ValueError`` or ``TypeError`` where ``wire.EventItem`` refuses it, or JSON cannot carry ``details``.
    """
    written = "" if details is None else _DETAILS.encode(details)
    if "\\u" in written or not all(isinstance(name, str) for name in details or ()):
        facts = None if details is None else dict(details)
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
    return Record(made.bytes, Lane.EVENT, body, once='{"id":"' not in written)


@lru_cache(maxsize=1024)
def _event_frame(event_type: str, client: str | None, roundless: bool) -> str:
    """What a site's events of one type share whatever their round and details."""
    item = wire.EventItem(at=datetime.min, event_type=event_type, client=client, global_round=None if roundless else 1)
    return _ascii(item.model_dump_json(include={"kind", "event_type", "client"}, exclude_none=True))[1:-1]


@lru_cache(maxsize=1024)
def _frame(client: str, task: str | None) -> str:
    """What a site's numbers of one task share whatever their round; see ``plain_records``."""
    item = wire.MetricItem(at=datetime.min, client=client, global_round=0, label="-", result=0.0, task=task)
    return _ascii(item.model_dump_json(include={"kind", "client", "task"}, exclude_none=True))[1:]


def _ascii(text: str) -> str:
    """JSON as the outbox keeps it: its length in characters is its length in bytes."""
    return text if text.isascii() else json.dumps(json.loads(text), separators=(",", ":"))
