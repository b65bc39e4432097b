"""Percentile sparsification: small changes are left out, large ones cut. It adds no noise and promises no privacy.

Shokri and Shmatikov (2015) share a part of a model's changes; NVFLARE calls such a filter ``PercentilePrivacy``. There
``gamma`` is for a local step; here it is for the whole update, because what a step is only the job's code knows.
"""

from __future__ import annotations

import math

import numpy as np

from flip_fl.privacy.updates import Array, NotFiltered, Update

_BINS = 1 << 16


def sparsify(update: Update, percentile: float, gamma: float) -> None:
    """Set the changes whose magnitude is below the ``percentile`` of all to 0, and cut the others at ±``gamma``.

    The cut-off is the smallest magnitude (as float32) that at least ``percentile`` % of all do not exceed. Raises
    ``ValueError`` for a percentile outside 0..100 or a gamma that is not above 0, ``NotFiltered`` for NaN or infinity.
    """
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be from 0 to 100, it is {percentile!r}")
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma must be a positive number, it is {gamma!r}")
    cutoff = _cutoff(update, percentile)

    def sparse(chunk: Array, _: np.random.Generator) -> None:
        # As float32, as they were ranked.
        chunk[np.abs(chunk).astype(np.float32, copy=False) < cutoff] = 0
        np.clip(chunk, -gamma, gamma, out=chunk)

    update.then(sparse)


def _cutoff(update: Update, percentile: float) -> np.float32:
    """The magnitude of that rank, without sorting: of numbers from 0 the bits of a float32 are in their order.

    The upper half of the bits is counted first, then the lower half of those that fall where the rank does.
    """
    nothing = np.zeros(_BINS, np.int64)
    upper: Array = update.total(lambda chunk: np.bincount(_bits(chunk) >> np.uint32(16), minlength=_BINS), nothing)
    if upper[0x7F80:].any():
        raise NotFiltered("the update holds NaN or infinity: it cannot be ranked")
    total = int(upper.sum())
    if total == 0:
        return np.float32(0)
    rank = max(1, math.ceil(total * percentile / 100))
    high = int(np.searchsorted(np.cumsum(upper), rank))

    def lower_of(chunk: Array) -> Array:
        bits = _bits(chunk)
        inside = bits[(bits >> np.uint32(16)) == high] & np.uint32(0xFFFF)
        return np.bincount(inside, minlength=_BINS)

    lower: Array = update.total(lower_of, nothing)
    low = int(np.searchsorted(np.cumsum(lower), rank - int(upper[:high].sum())))
    return np.float32(np.array([high << 16 | low], np.uint32).view(np.float32)[0])


def _bits(chunk: Array) -> Array:
    return np.abs(chunk).astype(np.float32, copy=False).view(np.uint32)
