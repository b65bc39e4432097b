"""What the outbox keeps of one report: its lane, its id, and the JSON that will be sent."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any, NamedTuple

from pydantic_core import PydanticSerializationError

from flip_fl import wire
from flip_fl.values import ModelStatus

MAX_TEXT_CHARS = 32_000
# What a row costs in the file beside its body: id, index entries, page overhead.
ROW_OVERHEAD_BYTES = 120


class Lane(IntEnum):
    """What is sent first. Losses go the other way round: metrics first, a status never."""

    STATUS = 0
    FAILURE = 1
    EVENT = 2
    METRIC = 3


class Record(NamedTuple):
    """One report on its way to the hub.

    ``terminal`` marks a status that ends the run, ``own`` a row about the outbox's own losses, ``attempted`` a
    report that was handed to a hub which may have stored it without our hearing of it.
    """

    id: bytes
    lane: Lane
    body: str
    terminal: bool = False
    own: bool = False
    attempted: bool = False

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

    def item(self) -> dict[str, Any]:
        """The ``wire.Item`` as JSON types."""
        item: dict[str, Any] = json.loads(self.body)
        return item

    def is_readable(self) -> bool:
        """Whether the body is still the JSON object that was kept under this id: disks do change bits."""
        try:
            item = json.loads(self.body)
            return isinstance(item, dict) and item.get("id") == self.name
        except (ValueError, RecursionError):
            return False


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


def shorten(text: str, limit: int = MAX_TEXT_CHARS) -> str:
    """``text`` within ``limit`` characters: of a traceback the first and, above all, the last lines matter."""
    if len(text) <= limit:
        return text
    head, tail = limit // 4, limit - limit // 4 - 60
    return f"{text[:head]}\n… {len(text) - head - tail} characters left out …\n{text[-tail:]}"


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
