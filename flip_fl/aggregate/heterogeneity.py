"""How far apart the sites' updates of one round lie: the length of each, and its angle to their mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Model = Mapping[str, Any]

# Numbers of all sites that are looked at together: 2 MB in float64, which a processor's cache holds.
_TOGETHER = 1 << 18
_LEAST_WIDTH = 256


@dataclass(frozen=True)
class Spread:
    """Of one site's update ``u``: ``norm`` is ||u||, ``cosine`` is u·m / (||u|| ||m||), m the mean of all updates.

    None where there is none: the cosine where one of the two is zero, either where it is no finite number, both where
    the model has nothing to compare.
    """

    norm: float | None
    cosine: float | None


def spread(sent: Model, returned: Mapping[str, Model], weights: Mapping[str, float] | None = None) -> dict[str, Spread]:
    """Slot → how its update lies to the mean of all; ``returned`` (slot → arrays) are whole models (see ``restored``).

    An update is the difference to ``sent``, the model that the sites got, over all its floating-point arrays as one
    vector, running statistics among them; whole numbers have no direction, and are left out, as are complex ones. An
    array that a site did not return in its shape is left out for all. ``weights`` (slot → number, of the mean; None:
    all alike) must not all be 0, else there is no mean and no cosine. Sums are float64; beside the models it needs a
    few megabytes, whatever their size.
    """
    slots = list(returned)
    if not slots:
        return {}
    share = _normal([1.0 if weights is None else float(weights.get(slot, 0.0)) for slot in slots])
    squares, along = np.zeros(len(slots)), np.zeros(len(slots))
    mean_square, compared = 0.0, False
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _blocks(sent, list(returned.values())):
            compared = True
            mean = share @ block
            squares += np.einsum("ij,ij->i", block, block)
            along += block @ mean
            mean_square += float(mean @ mean)
        norms = np.sqrt(squares)
        # Updates that cancel out leave rounding errors, and the angle to those means nothing.
        noise = np.finfo(np.float64).eps * len(slots) * float(share @ norms)
    if not compared:
        return dict.fromkeys(slots, Spread(None, None))
    length = math.sqrt(mean_square) if mean_square > 0 else 0.0
    return {
        slot: Spread(_finite(norm), _cosine(dot, norm, length, noise))
        for slot, norm, dot in zip(slots, norms.tolist(), along.tolist(), strict=True)
    }


def _blocks(sent: Model, returned: Sequence[Model]) -> Iterator[np.ndarray[Any, Any]]:
    """The differences, a row a site, some columns at a time; a block is valid until the next one is asked for."""
    models = [sent, *returned]
    names = [name for name in sent if _is_same(name, models)]
    # Never wider than the models: rows far apart in memory cost more than the numbers in them.
    width = min(max(_LEAST_WIDTH, _TOGETHER // len(returned)), sum(sent[name].size for name in names))
    buffer, before = np.empty((len(returned), width)), np.empty(width)
    for pieces in _pieces({name: sent[name].size for name in names}, width):
        filled = sum(stop - start for _, start, stop in pieces)
        # Several small arrays in one call: of many sites each call counts.
        for model, row in zip(models, (before, *buffer), strict=True):
            flat = [_flat(model[name], start, stop) for name, start, stop in pieces]
            np.concatenate(flat, out=row[:filled], casting="same_kind")
        block = buffer[:, :filled]
        block -= before[:filled]
        yield block


def _pieces(sizes: Mapping[str, int], width: int) -> Iterator[list[tuple[str, int, int]]]:
    """Arrays one after another, cut into lists of (name, from, to) that are ``width`` numbers long but for the last."""
    pieces: list[tuple[str, int, int]] = []
    room = width
    for name, size in sizes.items():
        start = 0
        while start < size:
            stop = min(size, start + room)
            pieces.append((name, start, stop))
            room, start = room - (stop - start), stop
            if not room:
                yield pieces
                pieces, room = [], width
    if pieces:
        yield pieces


def _flat(array: np.ndarray[Any, Any], start: int, stop: int) -> np.ndarray[Any, Any]:
    """Some numbers of ``array`` in C order; of one that lies in another order only these are copied."""
    return array.reshape(-1)[start:stop] if array.flags.c_contiguous else array.flat[start:stop]


def _is_same(name: str, models: Sequence[Model]) -> bool:
    """Whether it is an array of floating-point numbers in each of ``models``, everywhere of one shape."""
    shape = models[0][name].shape
    arrays = [model.get(name) for model in models]
    return all(isinstance(a, np.ndarray) and a.dtype.kind == "f" and a.shape == shape for a in arrays)


def _normal(weights: list[float]) -> np.ndarray[Any, Any]:
    total = math.fsum(weights)
    return np.asarray(weights) / total if total > 0 and math.isfinite(total) else np.zeros(len(weights))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cosine(dot: float, norm: float, length: float, noise: float) -> float | None:
    if not (norm > 0 and length > noise):
        return None
    cosine = dot / norm / length
    return max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else None
