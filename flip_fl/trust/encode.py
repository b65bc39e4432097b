"""One column's values as they are sent: whole numbers, numbers, truth values, text, null. Dates are ISO text.

The same value comes out whichever way a cohort is sent. What is no finite number is null: JSON has no word for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flip_fl.trust.selection import Kind

if TYPE_CHECKING:
    import pyarrow as pa

_AS_THEY_ARE = frozenset({int, str, bool})
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_values(values: Sequence[Any]) -> bytes:
    """The values as JSON, joined by commas, without brackets."""
    try:
        text = _encode(values if _types(values) <= _AS_THEY_ARE | {float} else [plain(value) for value in values])
    except ValueError:
        # One of them is not finite.
        text = _encode([plain(value) for value in values])
    return text[1:-1].encode()


def plain(value: Any) -> Any:
    """One value as JSON knows it."""
    if value is None or type(value) in _AS_THEY_ARE:
        return value
    if isinstance(value, float | Decimal):
        number = float(value)
        return number if math.isfinite(number) else None
    return _text(value)


def arrow_values(values: Sequence[Any], kind: Kind | None) -> pa.Array[Any]:
    """The values as Arrow; ``kind`` None: what all of them fit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if kind is None:
        kind = _common(_types(values))
    if kind is None:
        return pa.nulls(len(values))
    if kind is Kind.INTEGER:
        return pa.array(values, pa.int64())
    if kind is Kind.BOOLEAN:
        return pa.array(values, pa.bool_())
    if kind is Kind.NUMBER:
        numbers = pa.array(values, pa.float64(), from_pandas=True)
        return pc.if_else(pc.is_finite(numbers), numbers, None)
    if _types(values) > {str}:
        values = [None if value is None else _text(value) for value in values]
    return pa.array(values, pa.string())


def _common(types: set[type]) -> Kind | None:
    if not types:
        return None
    if types == {int}:
        return Kind.INTEGER
    if types == {bool}:
        return Kind.BOOLEAN
    return Kind.NUMBER if types <= {int, float} else Kind.TEXT


def _types(values: Sequence[Any]) -> set[type]:
    found = set(map(type, values))
    found.discard(type(None))
    return found


def _text(value: Any) -> str:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    return str(value)
