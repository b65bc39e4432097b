"""What the outbox keeps of one report: its lane, its id, and the JSON that will be sent."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError

from flip_fl import wire
from flip_fl.values import ModelStatus

MAX_TEXT_CHARS = 32_000
# What a row costs in the file beside its body: id, index entries, page overhead.
ROW_OVERHEAD_BYTES = 120
# Of a batch of 500 the rest must not be too small for the next row, and at the caps little more must go than has to.
MAX_TOGETHER = 50
MAX_TOGETHER_BYTES = 16 << 10

_METRICS = TypeAdapter(list[wire.MetricItem])
# Inside a JSON string a quote has a backslash before it: no text can look like the beginning of an item, or its mark.
_METRICS_MARK = '"kind":"metrics"'
_NAME = re.compile(r'\{"id":"([0-9a-f-]{36})"')
_ID = slice(len('{"id":"'), len('{"id":"') + 36)


class Lane(IntEnum):
    """What is sent first. Losses go the other way round: metrics first, a status never."""

    STATUS = 0
    FAILURE = 1
    EVENT = 2
    METRIC = 3


class Record(NamedTuple):
    """One report on its way to the hub, or ``reports`` of one lane that were made together and travel together.

    The body of several is the JSON objects of their items with commas between them, and ``id`` that of the first: for
    the outbox and the sender they cost as much as one. An item may be several metrics (``wire.MetricsItem``). What is
    wrong with one of the reports is found out one by one: ``parts``.
    ``terminal`` marks a status that ends the run, ``own`` a row about the outbox's own losses, ``attempted`` a
    report that was handed to a hub which may have stored it without our hearing of it. ``shares``: it may share a row
    with others, for no copy of it can come by another way, and nothing in it looks like another report.
    """

    id: bytes
    lane: Lane
    body: str
    terminal: bool = False
    own: bool = False
    attempted: bool = False
    reports: int = 1
    shares: bool = False

    @property
    def size(self) -> int:
        return len(self.body) + ROW_OVERHEAD_BYTES

    @property
    def durable(self) -> bool:
        """Whether the record must survive a loss of power, too."""
        return self.lane in (Lane.STATUS, Lane.FAILURE)

    @property
    def name(self) -> str:
        """The id as the hub writes it."""
        text = self.id.hex()
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    @property
    def packed(self) -> bool:
        """Whether one of its items is several metrics, which a hub of an older version does not know."""
        return self.lane is Lane.METRIC and self.reports > 1 and _METRICS_MARK in self.body

    @property
    def names(self) -> list[str]:
        """The ids of the items in it."""
        return [self.name] if self.reports == 1 else _NAME.findall(self.body)

    def item(self) -> dict[str, Any]:
        """The ``wire.Item`` as JSON types."""
        item: dict[str, Any] = json.loads(self.body)
        return item

    def parts(self) -> list[Record]:
        """Each of the reports as a record of its own; fewer where the disk has changed the beginning of one."""
        if self.reports == 1:
            return [self]
        found: list[Record] = []
        starts = [match.start() for match in _NAME.finditer(self.body)]
        for start, end in pairwise([*starts, len(self.body) + 1]):
            with contextlib.suppress(ValueError):
                found += self._single(self.body[start : end - 1])
        return found

    def _single(self, body: str) -> list[Record]:
        if _METRICS_MARK in body and self.lane is Lane.METRIC:
            return [record_of(item) for item in wire.MetricsItem.model_validate_json(body).metrics()]
        return [self._replace(id=UUID(body[_ID]).bytes, body=body, reports=1)]

    def is_readable(self) -> bool:
        """Whether the body is still the JSON object that was kept under this id: disks do change bits."""
        try:
            items = json.loads(f"[{self.body}]")
            whole = sum(map(_reports_in, items)) == self.reports
            return whole and [item.get("id") for item in items] == self.names and items[0]["id"] == self.name
        except (ValueError, RecursionError):
            return False


def _reports_in(item: object) -> int:
    """How many reports a JSON value stands for; 0 for what is no item."""
    if not isinstance(item, dict):
        return 0
    return len(wire.MetricsItem.model_validate(item).labels) if item.get("kind") == "metrics" else 1


def record_of(item: wire.Item, *, own: bool = False) -> Record:
    """``item`` as it is kept; texts longer than 32,000 characters lose their middle."""
    if isinstance(item, wire.MetricItem):
        lane, terminal = Lane.METRIC, False
    elif isinstance(item, wire.StatusItem):
        lane, terminal = Lane.STATUS, ModelStatus(item.status).is_terminal
        if item.reason is not None and len(item.reason) > MAX_TEXT_CHARS:
            item = item.model_copy(update={"reason": shorten(item.reason)})
    elif isinstance(item, wire.LogItem):
        lane, terminal = (Lane.EVENT if item.success else Lane.FAILURE), False
        if len(item.log) > MAX_TEXT_CHARS:
            item = item.model_copy(update={"log": shorten(item.log)})
    else:
        lane, terminal = Lane.EVENT, False
    return Record(id=item.id.bytes, lane=lane, body=_json(item), terminal=terminal, own=own)


def metric_records(items: Sequence[wire.MetricItem]) -> list[Record]:
    """``items``, of which no copy can come by another way, in as few records as may be."""
    records: list[Record] = []
    for start in range(0, len(items), MAX_TOGETHER):
        some = list(items[start : start + MAX_TOGETHER])
        raw = _METRICS.dump_json(some, exclude_none=True)
        if raw.isascii() and b"\\u" not in raw:
            records.append(
                Record(some[0].id.bytes, Lane.METRIC, raw[1:-1].decode("ascii"), reports=len(some), shares=True)
            )
        else:
            records += [record_of(item) for item in some]
    return records


def in_fewer_rows(records: Sequence[Record]) -> list[Record]:
    """``records`` with those that may share rows in as few of them as may be; the order in each lane stays."""
    groups: list[list[Record]] = []
    open_groups: dict[Lane, tuple[list[Record], int, int]] = {}
    for record in records:
        group, reports, size = open_groups.get(record.lane, ([], 0, 0))
        reports, size = reports + record.reports, size + record.size
        if not (group and record.shares and reports <= MAX_TOGETHER and size <= MAX_TOGETHER_BYTES):
            group, reports, size = [], record.reports, record.size
            groups.append(group)
        group.append(record)
        # Whoever may not share is passed by nobody: the order stays.
        open_groups[record.lane] = (group, reports, size) if record.shares else ([], 0, 0)
    return [_one_row(group) if len(group) > 1 else group[0] for group in groups]


def shorten(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """``text`` within ``limit`` characters: of a traceback the first and, above all, the last lines matter."""
    if len(text) <= limit:
        return text
    head, tail = limit // 4, limit - limit // 4 - 60
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"


def _one_row(group: Sequence[Record]) -> Record:
    body, reports = ",".join(each.body for each in group), sum(each.reports for each in group)
    return group[0]._replace(body=body, reports=reports)


def _json(item: wire.Item) -> str:
    # The quick way for nearly all reports: plain text without escapes, and no half of a surrogate pair.
    try:
        raw = item.__pydantic_serializer__.to_json(item, exclude_none=True)
    except PydanticSerializationError:
        raw = b"\\u"
    if raw.isascii() and b"\\u" not in raw:
        return raw.decode("ascii")
    facts = item.model_dump(mode="json", exclude_none=True)
    # ASCII, so that the length in characters is the length in bytes.
    body = json.dumps(facts, separators=(",", ":"), allow_nan=False)
    if "\\u0000" in body or "\\ud" in body:
        # No database stores a NUL or half a surrogate pair: the hub could only answer 500, for ever.
        body = json.dumps(_storable(facts), separators=(",", ":"), allow_nan=False)
    return body


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, dict):
        return {_storable(key): _storable(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_storable(part) for part in value]
    return value
