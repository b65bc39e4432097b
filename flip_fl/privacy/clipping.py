"""Norm clipping: the whole update is scaled down until its L2 norm is what is allowed."""

from __future__ import annotations

import numpy as np

from flip_fl.privacy.updates import Array, Update


def clip(update: Update, norm: float) -> float:
    """Let ``update`` be at most ``norm`` long; returns how long it was. Raises ``NotFiltered`` where it is not finite.

    Its direction stays: what it says about the data is bounded in size, and not hidden.
    """
    length = update.norm()
    if length <= norm:
        return length
    scale = norm / length

    def scaled(chunk: Array, _: np.random.Generator) -> None:
        np.multiply(chunk, chunk.dtype.type(scale), out=chunk)

    update.then(scaled)
    return length
