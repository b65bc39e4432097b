"""What the app returned, as plain data: a guest sends it, and the other side judges it as if it had come itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from flip_fl.app.faults import AppError
from flip_fl.privacy.egress import as_number
from flip_fl.privacy.supplementary import MAX_DEPTH, MAX_NUMBERS, is_supplementary

MAX_NAMES = 20_000
_NUMBER, _WHOLE, _TRUTH, _SEVERAL, _NAMED, _OTHER = "n", "i", "b", "s", "d", "o"
_ODD = ("nan", "inf", "-inf")


class Other:
    """Stands for a value that is neither a number nor several of them; nothing of it was sent."""


def told(values: Mapping[Any, Any]) -> list[list[Any]]:
    """``values`` in pairs that JSON takes. Raises ``AppError`` for more than ``MAX_NAMES``."""
    if len(values) > MAX_NAMES:
        raise AppError(f"it returned more than {MAX_NAMES} values")
    return [[name if isinstance(name, str) else None, _told(value, MAX_DEPTH + 1)] for name, value in values.items()]


def heard(given: Any) -> dict[Any, Any]:
    """What ``told`` was given, from whoever sends it. Raises ``ValueError`` for anything else."""
    if not isinstance(given, list) or len(given) > MAX_NAMES:
        raise ValueError("no values are told")
    found: dict[Any, Any] = {}
    for pair in given:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("a value is not told as it must be")
        name, value = pair
        found[name if isinstance(name, str) else Other()] = _heard(value, MAX_DEPTH + 1)
    return found


def _told(value: Any, depth: int) -> list[Any]:
    if isinstance(value, bool | np.bool_):
        return [_TRUTH, bool(value)]
    if isinstance(value, int | np.integer):
        return [_WHOLE, int(value)]
    try:
        if depth and is_supplementary(value):
            return _several(value, depth)
    except Exception:
        return [_OTHER]
    number = as_number(value)
    return [_OTHER] if number is None else [_NUMBER, number if math.isfinite(number) else repr(number)]


def _several(value: Any, depth: int) -> list[Any]:
    if isinstance(value, Mapping):
        members = list(value.items())[: MAX_NUMBERS + 1]
        return [_NAMED, [[key if isinstance(key, str) else None, _told(each, depth - 1)] for key, each in members]]
    if not isinstance(value, list | tuple):
        # One more than may leave is enough to be refused.
        value = value.tolist() if math.prod(value.shape) <= MAX_NUMBERS else [0] * (MAX_NUMBERS + 1)
    return [_SEVERAL, [_told(each, depth - 1) for each in value[: MAX_NUMBERS + 1]]]


def _heard(given: Any, depth: int) -> Any:
    if not isinstance(given, list) or not given:
        raise ValueError("a value is not told as it must be")
    kind, *rest = given
    value = rest[0] if rest else None
    if kind == _TRUTH and isinstance(value, bool):
        return value
    if kind == _WHOLE and type(value) is int:
        return value
    if kind == _NUMBER and isinstance(value, float | str) and (type(value) is float or value in _ODD):
        return float(value)
    if depth and kind == _SEVERAL and isinstance(value, list):
        return [_heard(each, depth - 1) for each in value]
    if depth and kind == _NAMED and isinstance(value, list):
        pairs = [each for each in value if isinstance(each, list) and len(each) == 2]
        return {key if isinstance(key, str) else Other(): _heard(each, depth - 1) for key, each in pairs}
    return Other()
