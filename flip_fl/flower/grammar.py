"""The metrics of ClientApps that are not ours: a key may carry the axis and the place on it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from flip_fl.app.metric_key import metric_key
from flip_fl.app.runner import BOOKKEEPING
from flip_fl.flower.columns import stamp
from flip_fl.privacy.egress import sane_name
from flip_fl.reporting.plain import Heads, heads_of
from flip_fl.wire import LogItem, new_event_id

LIST_AXIS = "Step"
MAX_POINTS = 100_000
# More names than this are read anew each time they come.
MAX_REMEMBERED = 256
_NUMBERS = frozenset({float, int})


def metrics_by_grammar(record: Mapping[str, Any], *, slot: str, round: int, task: str) -> list[dict[str, Any]]:
    """The metrics of a ``MetricRecord`` as wire items with new ids; bookkeeping entries are left out.

    A key reads ``<label>[@<x_label>][.x_<value>]``; the label is taken as it is written. A list is a series: its points
    lie at 0, 1, 2, … (or from the key's value on), on the axis "Step" unless the key names one. Beyond ``MAX_POINTS``
    a row says how many were left out; another one counts the metrics whose names may not leave a trust.
    """
    now = datetime.now(UTC)
    named = {key: value for key, value in record.items() if key not in BOOKKEEPING}
    fit = {key: value for key, value in named.items() if _may_leave(key)}
    points = _points(fit)
    items = [
        {
            "kind": "metric",
            "id": str(new_event_id()),
            "at": stamp(now),
            "client": slot,
            "global_round": round,
            "label": label,
            "result": number,
            "x_value": x,
            "x_label": x_label,
            "task": task,
            "stage": None,
        }
        for label, x_label, x, number in islice(points, MAX_POINTS)
    ]
    told = []
    if left_out := sum(1 for _ in points):
        told.append(f"{left_out} numbers of this reply were not stored: more than {MAX_POINTS} in one message")
    if hidden := len(named) - len(fit):
        told.append(f"{hidden} metrics of this reply have names that may not leave the trust: not stored")
    for text in told:
        row = LogItem(at=now, client=slot, log=text, success=False, global_round=round)
        items.append(row.model_dump(mode="json"))
    return items


class Plain(NamedTuple):
    """Numbers, and what each of them is called (see ``flip_fl.reporting.plain``)."""

    heads: Heads
    values: list[float]


def plain_metrics(record: Mapping[str, Any]) -> Plain | None:
    """What ``metrics_by_grammar`` makes of a ``MetricRecord``, where that is finite numbers under names that may leave.

    So it is with nearly all, and with the same names every round. None for any other.
    """
    named = {key: value for key, value in record.items() if key not in BOOKKEEPING}
    if not set(map(type, named.values())) <= _NUMBERS or len(named) > MAX_REMEMBERED:
        return None
    heads = _heads(tuple(named))
    try:
        values = [float(value) for value in named.values()]
    except OverflowError:
        return None
    return Plain(heads, values) if heads is not None and all(map(math.isfinite, values)) else None


@lru_cache(maxsize=256)
def _heads(keys: tuple[str, ...]) -> Heads | None:
    if not all(map(_may_leave, keys)):
        return None
    try:
        return heads_of(map(metric_key, keys))
    except ValueError:
        return None


def _may_leave(key: str) -> bool:
    label, x_label, _ = metric_key(key)
    return sane_name(label) and (x_label is None or sane_name(x_label))


def _points(record: Mapping[str, Any]) -> Iterator[tuple[str, str | None, float | None, float]]:
    for key, value in record.items():
        label, x_label, x = metric_key(key)
        if not isinstance(value, list):
            yield label, x_label, x, _float(value)
            continue
        for position, number in enumerate(value):
            yield label, x_label or LIST_AXIS, (x or 0.0) + position, _float(number)


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf
