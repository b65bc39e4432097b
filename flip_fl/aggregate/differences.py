"""A site's update as what training changed: the difference to the model that was sent, in its dtypes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flip_fl.aggregate.average import Arrays


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> Arrays:
    """``after - before``, by name. Whole numbers wrap and booleans are xor-ed, so that ``restored`` is exact there."""
    return {name: _between(before[name], array) for name, array in after.items()}


def restored(before: Mapping[str, Any], change: Mapping[str, Any]) -> Arrays:
    """``before + change`` for the names of ``change``, summed in float64 and cast back to the dtypes of ``before``."""
    return {name: _moved(before[name], array) for name, array in change.items()}


def _between(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if after.dtype.kind == "b":
        return np.asarray(np.logical_xor(before, after))
    with np.errstate(over="ignore"):
        return np.asarray(after - before)


def _moved(before: np.ndarray[Any, Any], change: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if before.dtype.kind == "b":
        return np.asarray(np.logical_xor(before, change))
    if before.dtype.kind in "iu":
        return np.asarray(before + change)
    wide = np.complex128 if before.dtype.kind == "c" else np.float64
    return np.asarray((before.astype(wide) + change).astype(before.dtype))
