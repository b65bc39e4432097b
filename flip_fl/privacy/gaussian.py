"""The Gaussian mechanism on a model's update: clipped to a norm, and noise on every number of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]


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
        if list(before) != list(after):
            raise ValueError("the trained arrays have other names than those that were sent")
        changes: Arrays = {}
        for name, array in after.items():
            if np.shape(array) != np.shape(before[name]):
                raise ValueError(f"'{name}' has another shape than it was sent with")
            kind = np.asarray(array).dtype.kind
            if kind == "f":
                changes[name] = np.asarray(array, np.float64) - np.asarray(before[name], np.float64)
            elif kind not in "iub":
                raise ValueError(f"'{name}' holds neither real nor whole numbers")
        norm = math.sqrt(sum(float(np.vdot(change, change)) for change in changes.values()))
        if not math.isfinite(norm):
            raise ValueError("the update holds NaN or infinity: it cannot be clipped")
        scale = min(1.0, self.clipping_norm / norm) if norm else 1.0
        noise = np.random.default_rng()
        return {
            name: np.asarray(before[name])
            if name not in changes
            else np.asarray(
                np.asarray(before[name], np.float64)
                + changes[name] * scale
                + noise.normal(0.0, self.sigma, changes[name].shape),
                dtype=np.asarray(after[name]).dtype,
            )
            for name in after
        }
