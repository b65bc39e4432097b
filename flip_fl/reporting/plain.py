"""Plain numbers of one site in one task, written as they travel: no model is made of each of them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache

from pydantic import TypeAdapter

from flip_fl import wire
from flip_fl.reporting.records import MAX_TOGETHER, Lane, Record

_ROUND = TypeAdapter(wire.Round)

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
    tail = f'"at":"{at.isoformat()}","global_round":{_ROUND.validate_python(global_round)},{_frame(client, task)}'
    made = wire.new_event_id()
    first = made.int & ~(1 << (_COUNTED - 1))
    start, count = f'{{"id":"{str(made)[:_NOT_COUNTED_CHARS]}', first & (1 << _COUNTED) - 1
    bodies = [
        f"{start}{number:08x}{head}{value},{tail}"
        for number, head, value in zip(range(count, count + len(heads)), heads, values, strict=True)
    ]
    return [
        Record(
            (first + place).to_bytes(16, "big"),
            Lane.METRIC,
            ",".join(bodies[place : place + MAX_TOGETHER]),
            reports=min(MAX_TOGETHER, len(bodies) - place),
        )
        for place in range(0, len(bodies), MAX_TOGETHER)
    ]


@lru_cache(maxsize=1024)
def _frame(client: str, task: str | None) -> str:
    """What a site's numbers of one task share whatever their round; see ``plain_records``."""
    item = wire.MetricItem(at=datetime.min, client=client, global_round=0, label="-", result=0.0, task=task)
    return _ascii(item.model_dump_json(include={"kind", "client", "task"}, exclude_none=True))[1:]


def _ascii(text: str) -> str:
    """JSON as the outbox keeps it: its length in characters is its length in bytes."""
    return text if text.isascii() else json.dumps(json.loads(text), separators=(",", ":"))
