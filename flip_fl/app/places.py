"""Where in a JSON text a value stands, so that an error can point at it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()

Path = tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A JSON object: its value, and the offset of each member's value by the path of its keys."""

    text: str
    value: dict[str, Any]
    offsets: Mapping[Path, int]

    def line_column(self, *path: str) -> tuple[int, int]:
        """Line and column (both from 1) of the value at ``path``, or of its nearest parent that stands in the text."""
        keys = path
        while keys and keys not in self.offsets:
            keys = keys[:-1]
        return line_column(self.text, self.offsets.get(keys, 0))


def read_object(text: str) -> Document:
    """Read one JSON object and remember where its values stand.

    Raises ``json.JSONDecodeError``, also for what only Python's reader takes for JSON (NaN, Infinity), for a key that
    stands twice, and for a value that is no object.
    """

    def no_constant(name: str) -> Any:
        found = re.search(rf'(?<![\w"]){re.escape(name)}(?![\w"])', text)
        raise json.JSONDecodeError(f"{name} is not JSON", text, found.start() if found else 0)

    value = json.loads(text, parse_constant=no_constant)
    start = _skip(text, 0)
    if not isinstance(value, dict):
        raise json.JSONDecodeError("it must be one object: {…}", text, start)
    offsets: dict[Path, int] = {}
    _walk(text, start, (), offsets)
    return Document(text=text, value=value, offsets=offsets)


def line_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column of ``offset``, both counted from 1."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _walk(text: str, start: int, path: Path, offsets: dict[Path, int]) -> int:
    """Note the places below the object that begins at ``start``; the offset after its closing brace."""
    position = _skip(text, start + 1)
    while text[position] != "}":
        key_at = position
        key, position = _DECODER.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)
        here = (*path, key)
        if here in offsets:
            raise json.JSONDecodeError(f"the key {key!r} stands twice", text, key_at)
        offsets[here] = position
        if text[position] == "{":
            position = _walk(text, position, here, offsets)
        else:
            _, position = _DECODER.raw_decode(text, position)
        position = _skip(text, position)
        if text[position] == ",":
            position = _skip(text, position + 1)
    return position + 1


def _skip(text: str, position: int) -> int:
    match = _BLANK.match(text, position)
    return match.end() if match else position
