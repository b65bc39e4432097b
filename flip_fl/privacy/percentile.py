"""Percentile sparsification: small changes are left out, large ones cut. It adds no noise and promises no privacy.

Shokri and Shmatikov (2015) share a part of a model's changes; NVFLARE calls such a filter ``PercentilePrivacy``. There
``gamma`` is for a local step; here it is for the whole update, because what a step is only the job's code knows.
"""

from __future__ import annotations

import math

import numpy as np

from flip_fl.privacy.updates import Array, NotFiltered, Update

_BINS = 1 << 16
# Every so manyth number is in the sample; the rank is sought this many standard deviations around its place there.
_STEP = 101
_SIGMAS = 5
# Of a chunk: more are alike (a layer that hardly moved), and counting is cheaper than keeping them.
_MOST_CANDIDATES = 1 << 14


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
        chunk[_magnitudes(chunk) < cutoff] = 0
        np.clip(chunk, -gamma, gamma, out=chunk)

    update.then(sparse)


def _cutoff(update: Update, percentile: float) -> np.float32:
    """The magnitude of that rank: sought between two that a sample names, else among all."""
    sample = np.sort(_magnitudes(update.sample(_STEP)))
    if sample.size:
        place, margin = sample.size * percentile / 100, 1 + _SIGMAS * math.sqrt(sample.size) / 2
        low = sample[max(0, math.floor(place - margin))] if place > margin else np.float32(0)
        high = sample[math.ceil(place + margin)] if place + margin < sample.size - 1 else np.float32(np.inf)
        found = _between(update, percentile, low, high)
        if found is not None:
            return found
    return _ranked(update, percentile)


def _between(update: Update, percentile: float, low: np.float32, high: np.float32) -> np.float32 | None:
    """The magnitude of that rank where it lies from ``low`` to ``high`` and not too many others do; None elsewhere."""

    def counted(chunk: Array) -> list[tuple[int, int, int, Array]]:
        magnitudes = _magnitudes(chunk)
        if not math.isfinite(float(magnitudes.max(initial=0))):
            raise NotFiltered("the update holds NaN or infinity: it cannot be ranked")
        below = magnitudes < low
        inside = np.flatnonzero(~below & (magnitudes <= high))
        keep = low < high and inside.size <= _MOST_CANDIDATES
        kept = magnitudes[inside] if keep else magnitudes[:0].copy()
        return [(chunk.size, int(np.count_nonzero(below)), inside.size, kept)]

    parts: list[tuple[int, int, int, Array]] = update.total(counted, [])
    total, below, inside = (sum(part[place] for part in parts) for place in range(3))
    rank = max(1, math.ceil(total * percentile / 100)) - below
    if not 1 <= rank <= inside:
        return None
    if low == high:
        return low
    candidates = np.concatenate([part[3] for part in parts])
    return np.float32(np.partition(candidates, rank - 1)[rank - 1]) if candidates.size == inside else None


def _ranked(update: Update, percentile: float) -> np.float32:
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


def _magnitudes(chunk: Array) -> Array:
    return np.abs(chunk).astype(np.float32, copy=False)


def _bits(chunk: Array) -> Array:
    return _magnitudes(chunk).view(np.uint32)
