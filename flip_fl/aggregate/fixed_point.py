"""Updates as whole numbers modulo 2⁶⁴, so that masks can be added to them and cancel exactly in the sum."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flip_fl.aggregate.average import Arrays, cast

Vector = np.ndarray[Any, np.dtype[np.uint64]]

# A change at the end of the range is this power of two; so much of a whole number is kept, too.
BITS = 36
# With more examples in all a sum could leave the 63 bits that it has.
MAX_TOTAL_EXAMPLES = 2 ** (63 - BITS) - 1


class DoesNotFit(ValueError):
    """An update that these whole numbers cannot hold; the text names parameters, never values."""


def step_of(reach: float) -> float:
    """The distance of two floating-point changes that can be told apart. Whole numbers are exact."""
    return reach / 2.0**BITS


def length_of(model: Mapping[str, Any]) -> int:
    """How many numbers ``encoded`` makes of ``model``: the weight, then the model's (two of a complex one)."""
    return 1 + sum(_size(array) for array in model.values())


def encoded(before: Mapping[str, Any], after: Mapping[str, Any], weight: int, reach: float) -> Vector:
    """``weight``, and ``weight`` times what changed from ``before`` to ``after``, rounded to the nearest step.

    Raises ``DoesNotFit`` where a number has changed by more than ``reach`` (a whole one: 2**36).
    """
    vector = np.empty(length_of(before), dtype=np.uint64)
    vector[0] = weight
    place, beyond = 1, []
    for name, array in before.items():
        steps = _steps(array, after[name], reach)
        if steps is None:
            beyond.append(name)
        elif not beyond:
            np.multiply(steps.view(np.uint64).ravel(), np.uint64(weight), out=vector[place : place + steps.size])
            place += steps.size
    if beyond:
        whole = all(before[name].dtype.kind in "biu" for name in beyond)
        most = f"2**{BITS}" if whole else f"{reach:g} (SECURE_AGGREGATION_RANGE)"
        raise DoesNotFit(f"training has changed numbers by more than {most} in {_listed(beyond)}")
    return vector


def decoded(before: Mapping[str, Any], total: Vector, weight: int, reach: float) -> Arrays:
    """``before`` plus the mean that the sum ``total`` of ``encoded`` vectors is of, in its dtypes.

    Raises ``ValueError`` where the weights in ``total`` do not add up to ``weight``: then masks are left in it.
    """
    if total.size != length_of(before) or int(total[0]) != weight or weight < 1:
        raise ValueError("the weights in the sum are not the sites'")
    mean: Arrays = {}
    place = 1
    for name, array in before.items():
        wide = _wide(array)
        size = _size(array)
        change = total[place : place + size].view(np.int64).astype(np.float64) / weight
        place += size
        if array.dtype.kind in "fc":
            change *= step_of(reach)
        mean[name] = cast(wide + change.view(wide.dtype).reshape(array.shape), array.dtype)
    return mean


def _steps(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any], reach: float) -> np.ndarray[Any, Any] | None:
    """What changed, in steps, as int64; None where it is too much."""
    kind = before.dtype.kind
    if kind in "biu":
        apart = _wide(after) - _wide(before)
        if apart.size and np.abs(apart).max() > 2.0**BITS:
            return None
        # Wraps where a difference of unsigned numbers is negative, and is exact: it fits.
        return np.ascontiguousarray(after.astype(np.int64) - before.astype(np.int64))
    change = np.ascontiguousarray(_wide(after) - _wide(before)).reshape(-1).view(np.float64)
    if change.size and not np.abs(change).max() <= reach:
        return None
    return np.asarray(np.rint(change / step_of(reach))).astype(np.int64)


def _wide(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _size(array: np.ndarray[Any, Any]) -> int:
    return array.size * (2 if array.dtype.kind == "c" else 1)


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
