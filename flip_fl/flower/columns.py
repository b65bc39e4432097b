"""A task's metrics as columns of equal length: what one ConfigRecord carries without a number's last digit lost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

NAMES = ("id", "at", "label", "x-label", "x", "y", "round", "task", "stage")

_ITEM_KEYS = frozenset(
    {"id", "at", "kind", "client", "global_round", "label", "result", "x_value", "x_label", "task", "stage"}
)
_UUID_BYTES = 16
_INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class Read:
    """The wire items of the columns, and how many entries were no metric or stood beyond the limit."""

    items: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0
    beyond: int = 0


def columns_of(items: Iterable[Mapping[str, Any]], slot: str) -> tuple[dict[str, list[Any]], list[Mapping[str, Any]]]:
    """The columns of ``slot``'s metrics, and the items that columns cannot give back exactly as they are."""
    columns: dict[str, list[Any]] = {name: [] for name in NAMES}
    others: list[Mapping[str, Any]] = []
    for item in items:
        cells = _cells(item, slot)
        if cells is None:
            others.append(item)
            continue
        for name, value in zip(NAMES, cells, strict=True):
            columns[name].append(value)
    return columns, others


def items_of(columns: Mapping[str, Any], client: str | None, limit: int) -> Read:
    """The first ``limit`` wire items of ``columns``, whoever filled them, under the name of ``client``."""
    found = [columns.get(name) for name in NAMES]
    lists = [column for column in found if isinstance(column, list)]
    if len(lists) != len(NAMES) or len({len(column) for column in lists}) != 1:
        return Read(unreadable=1)
    entries = [_item(cells, client) for cells in zip(*(column[:limit] for column in lists), strict=True)]
    items = [entry for entry in entries if entry is not None]
    return Read(items, unreadable=len(entries) - len(items), beyond=len(lists[0]) - len(entries))


def stamp(at: datetime) -> str:
    """``at`` (aware) as the wire's models write it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _cells(item: Mapping[str, Any], slot: str) -> tuple[Any, ...] | None:
    """The item as one entry of each column, or None when reading them would not give exactly this item."""
    if item.get("kind") != "metric" or item.keys() != _ITEM_KEYS or item["client"] != slot:
        return None
    x, y, number = item["x_value"], item["result"], item["global_round"]
    if type(y) is not float or type(number) is not int or not 0 <= number <= _INT64_MAX:
        return None
    if x is not None and (type(x) is not float or math.isnan(x)):
        return None
    words = (item["x_label"], item["task"], item["stage"])
    if not _is_text(item["label"]) or not all(word is None or (word and _is_text(word)) for word in words):
        return None
    try:
        id_, at = UUID(item["id"]), datetime.fromisoformat(item["at"]).timestamp()
        if str(id_) != item["id"] or stamp(datetime.fromtimestamp(at, UTC)) != item["at"]:
            return None
    except (ValueError, TypeError, AttributeError, OverflowError):
        return None
    x_label, task, stage = (word or "" for word in words)
    return id_.bytes, at, item["label"], x_label, math.nan if x is None else x, y, number, task, stage


def _item(cells: tuple[Any, ...], client: str | None) -> dict[str, Any] | None:
    id_, at, label, x_label, x, y, number, task, stage = cells
    if type(id_) is not bytes or len(id_) != _UUID_BYTES:
        return None
    digits = id_.hex()  # a UUID object only to be written down takes as long as all the rest of this
    try:
        place, result = float(x), float(y)
        return {
            "kind": "metric",
            "id": f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
            "at": datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z"),
            "client": client,
            "global_round": number,
            "label": label,
            "result": result,
            "x_value": None if math.isnan(place) else place,
            "x_label": x_label or None,
            "task": task or None,
            "stage": stage or None,
        }
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _is_text(value: Any) -> bool:
    """Whether Flower's serialisation can carry it."""
    try:
        value.encode()
    except (UnicodeEncodeError, AttributeError):
        return False
    return isinstance(value, str)
