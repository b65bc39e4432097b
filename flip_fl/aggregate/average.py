"""The weighted average of the sites' models: float64, slot order, cast back to the dtypes that were sent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flip_fl.values import natural_key

Arrays = dict[str, np.ndarray[Any, Any]]

# More examples than any site has; a claim beyond it would drown every other site.
MAX_EXAMPLES = 10**8


@dataclass(frozen=True)
class Update:
    """What one site returned of a training round: the whole model and the number of examples behind it."""

    slot: str
    arrays: Mapping[str, Any]
    num_examples: int


def check_update(reference: Mapping[str, Any], update: Update) -> str | None:
    """Why ``update`` cannot be averaged, or None.

    It must have exactly the names, shapes and dtypes of ``reference`` (the model that was sent), only finite numbers,
    and a plausible number of examples. The reason names parameters, never their values.
    """
    if isinstance(update.num_examples, bool) or not isinstance(update.num_examples, int | np.integer):
        return f"num_examples is a {type(update.num_examples).__name__}, not a whole number"
    if not 1 <= update.num_examples <= MAX_EXAMPLES:
        return f"num_examples is {update.num_examples}; it must be from 1 to {MAX_EXAMPLES}"
    missing = [name for name in reference if name not in update.arrays]
    if missing:
        return f"{len(missing)} parameters are missing, the first is '{missing[0]}'"
    extra = [name for name in update.arrays if name not in reference]
    if extra:
        return f"{len(extra)} parameters are not the model's, the first is '{str(extra[0])[:100]}'"
    for name, sent in reference.items():
        array = update.arrays[name]
        if not isinstance(array, np.ndarray):
            return f"'{name}' is a {type(array).__name__}, not an array"
        if array.shape != sent.shape:
            return f"'{name}' has the shape {array.shape}, the model's is {sent.shape}"
        if array.dtype != sent.dtype:
            return f"'{name}' is {array.dtype}, the model's is {sent.dtype}"
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            return f"'{name}' holds NaN or infinity"
    return None


def weighted_average(updates: Sequence[Update], weights: Mapping[str, float] | None = None) -> Arrays:
    """The average of ``updates``, weighted by ``num_examples``, or by ``weights`` (slot → number) where given.

    Sites are added in the natural order of their slots, whatever order they came in, so that the result is the same
    on every engine; sums are float64; whole-number arrays are rounded. Raises ``ValueError`` without updates, for
    a slot that stands twice or that ``weights`` does not name, and when all weights are 0.
    """
    shares = _shares(updates, weights)
    ordered = sorted(updates, key=lambda update: natural_key(update.slot))
    averaged: Arrays = {}
    for name, first in ordered[0].arrays.items():
        total = np.zeros(first.shape, dtype=np.complex128 if first.dtype.kind == "c" else np.float64)
        for update in ordered:
            total += update.arrays[name].astype(total.dtype) * shares[update.slot]
        averaged[name] = cast(total, first.dtype)
    return averaged


def _shares(updates: Sequence[Update], weights: Mapping[str, float] | None) -> dict[str, float]:
    if not updates:
        raise ValueError("there is nothing to average")
    slots = [update.slot for update in updates]
    if len(set(slots)) != len(slots):
        raise ValueError("a site gave two updates")
    if weights is not None:
        unknown = [slot for slot in slots if slot not in weights]
        if unknown:
            raise ValueError(f"AGGREGATION_WEIGHTS names no weight for {', '.join(unknown)}")
        given = {slot: float(weights[slot]) for slot in slots}
    else:
        given = {update.slot: float(update.num_examples) for update in updates}
    total = math.fsum(given.values())
    if not total > 0:
        raise ValueError(f"the weights of {', '.join(slots)} add up to {total:g}")
    return {slot: weight / total for slot, weight in given.items()}


def cast(total: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """``total`` as ``dtype``: whole numbers are rounded and kept within the type's limits, booleans vote."""
    if dtype.kind == "b":
        return np.asarray(total >= 0.5)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        total = np.clip(np.rint(total), float(limits.min), _largest(limits.max))
    return np.asarray(total.astype(dtype))


def _largest(limit: int) -> float:
    """The largest float64 that is not more than ``limit``."""
    value = float(limit)
    return value if value <= limit else float(np.nextafter(value, 0))
