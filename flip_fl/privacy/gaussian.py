"""The Gaussian mechanism on a model's update: clipped to a norm, and noise on every number of it.

``Mechanism`` is what a site's policy asks for: an ε that holds for any two updates of a site, and so for any two data
sets that it may have. ``GaussianRule`` is what existing Flower apps configure, by its own names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from flip_fl.privacy import analytic
from flip_fl.privacy.clipping import clip
from flip_fl.privacy.updates import Array, Operation, Update

Arrays = dict[str, np.ndarray[Any, Any]]
_PIECE = 1 << 14


@dataclass(frozen=True)
class GaussianRule:
    """How much an update may be, and how much noise it gets.

    ``clipping_norm``: the L2 norm of the whole update, in units of the weights. ``sensitivity``: by how much (L2) two
    updates that nobody shall tell apart may differ. Raises ``ValueError`` for what would switch the mechanism off: each
    value must be finite and positive, ``delta`` below 1.
    """

    clipping_norm: float = 1.0
    sensitivity: float = 1e-4
    epsilon: float = 10.0
    delta: float = 1e-5

    def __post_init__(self) -> None:
        for name in ("clipping_norm", "sensitivity", "epsilon", "delta"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"{name} must be a positive number, it is {value!r:.40}")
        if self.delta >= 1:
            raise ValueError(f"delta must be below 1, it is {self.delta!r}")

    @property
    def sigma(self) -> float:
        """The noise's standard deviation: sensitivity · √(2 ln(1.25/δ)) / ε (Dwork and Roth 2014, theorem A.1)."""
        return self.sensitivity * math.sqrt(2 * math.log(1.25 / self.delta)) / self.epsilon

    @property
    def epsilon_of_clipped(self) -> float:
        """The ε that this noise gives between any two clipped updates, which may be twice ``clipping_norm`` apart."""
        return self.epsilon * 2 * self.clipping_norm / self.sensitivity

    @property
    def words(self) -> str:
        """What the mechanism gives, and what it does not."""
        text = (
            f"the update is clipped to the norm {self.clipping_norm:g} and gets noise of standard deviation "
            f"{self.sigma:.3g}: epsilon {self.epsilon:g} at delta {self.delta:g} for updates at most "
            f"{self.sensitivity:g} apart, epsilon {self.epsilon_of_clipped:g} for any two clipped ones, each round anew"
        )
        if self.epsilon > 1:
            text += "; the formula is proven for an epsilon of at most 1"
        return text

    def applied(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> Arrays:
        """``before`` plus the clipped and noised ``after - before``, by name, in the dtypes of ``after``.

        Every floating-point array counts, those without an axis too. Whole numbers take no noise: they leave as they
        came, so that nothing of the training is in them. The noise comes from the operating system's randomness and
        never from a seed that others know. Raises ``ValueError`` for other names or shapes than before, complex
        numbers, and an update that is not finite.
        """
        kept = {name: np.array(array) for name, array in after.items()}
        update = Update(before, kept)
        clip(update, self.clipping_norm)
        update.then(noise(self.sigma))
        return update.write()


@dataclass(frozen=True)
class Mechanism:
    """(``epsilon``, ``delta``) for one update clipped to ``clipping_norm``, whatever the update is.

    Neighbours are two data sets of one site that may differ in everything ("replace one site"). Two clipped updates are
    at most twice ``clipping_norm`` apart: that is the sensitivity. The noise is the least that gives it, for every ε.
    """

    clipping_norm: float
    epsilon: float
    delta: float

    @property
    def sensitivity(self) -> float:
        """By how much (L2) two updates may differ, in units of the weights."""
        return 2 * self.clipping_norm

    @cached_property
    def multiplier(self) -> float:
        """The noise's standard deviation in units of the sensitivity: what an accountant composes."""
        return analytic.noise_multiplier(self.epsilon, self.delta)

    @property
    def sigma(self) -> float:
        """The noise's standard deviation on every number, in units of the weights."""
        return self.multiplier * self.sensitivity

    def apply(self, update: Update) -> None:
        """Clip ``update`` and give every number of it noise. Raises ``NotFiltered`` where it is not finite."""
        clip(update, self.clipping_norm)
        update.then(noise(self.sigma))


def noise(sigma: float) -> Operation:
    """Adds independent normal noise of standard deviation ``sigma`` to each number of a chunk."""

    def noisy(chunk: Array, generator: np.random.Generator) -> None:
        # In pieces of the cache: a buffer for a whole chunk would be one more to go through.
        for start in range(0, chunk.size, _PIECE):
            piece = chunk[start : start + _PIECE]
            drawn = generator.standard_normal(piece.size, dtype=piece.dtype.type)
            np.multiply(drawn, piece.dtype.type(sigma), out=drawn)
            np.add(piece, drawn, out=piece)

    return noisy
