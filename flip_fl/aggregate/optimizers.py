"""Server-side optimisers: the averaged difference of a round is a pseudo-gradient, applied to the global model.

Formulas: S. Reddi et al., "Adaptive Federated Optimization", ICLR 2021 (arXiv:2003.00295), algorithm 2, without bias
correction; SGD with momentum as T.-M. H. Hsu et al., 2019 (arXiv:1909.06335). With the round's averaged difference
``d = average - w`` and all moments 0 at the start:

- ``sgd``: ``m = momentum * m + d``, ``w = w + lr * m``
- ``adam``: ``m = beta1 * m + (1 - beta1) * d``, ``v = beta2 * v + (1 - beta2) * d²``, ``w = w + lr * m / (√v + tau)``
- ``yogi``: as adam, with ``v = v - (1 - beta2) * d² * sign(v - d²)``
- ``adagrad``: as adam, with ``v = v + d²``
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from flip_fl.aggregate.average import Arrays, cast

Moment = dict[str, np.ndarray[Any, Any]]


@dataclass(frozen=True)
class OptimizerSpec:
    """Which optimiser, and its numbers. ``momentum`` is sgd's, ``beta1``, ``beta2`` and ``tau`` are the others'."""

    name: str
    lr: float = 1.0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3


# sgd with lr 1 and no momentum is plain averaging; the adaptive ones move by about lr in every parameter.
_DEFAULTS = {
    "sgd": OptimizerSpec("sgd"),
    "adam": OptimizerSpec("adam", lr=0.01),
    "yogi": OptimizerSpec("yogi", lr=0.01),
    "adagrad": OptimizerSpec("adagrad", lr=0.01, beta1=0.0),
}
OPTIMIZERS = tuple(_DEFAULTS)
DEFAULT_OPTIMIZER = "sgd"
_NUMBERS = {"sgd": ("lr", "momentum")}
_ADAPTIVE = ("lr", "beta1", "beta2", "tau")


def read_optimizer(given: str | Mapping[str, Any] | None) -> OptimizerSpec:
    """The optimiser of ``SERVER_OPTIMIZER``: a name, or an object with ``name`` and numbers; None: sgd.

    Raises ``ValueError`` naming what is wrong with it: an unknown name or number, or one out of range.
    """
    told: Mapping[str, Any] = {"name": given or DEFAULT_OPTIMIZER} if not isinstance(given, Mapping) else given
    name = told.get("name")
    if name not in _DEFAULTS:
        raise ValueError(f"its name must be one of {', '.join(OPTIMIZERS)}")
    allowed = _NUMBERS.get(str(name), _ADAPTIVE)
    values: dict[str, float] = {}
    for key, value in told.items():
        if key == "name":
            continue
        if key not in allowed:
            raise ValueError(f"'{str(key)[:50]}' is none of {name}'s numbers ({', '.join(allowed)})")
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"{key} must be a number")
        if key in ("lr", "tau") and not value > 0:
            raise ValueError(f"{key} must be more than 0")
        if key not in ("lr", "tau") and not 0 <= value < 1:
            raise ValueError(f"{key} must be from 0 to less than 1")
        values[key] = float(value)
    default = _DEFAULTS[str(name)]
    return OptimizerSpec(**{**{field.name: getattr(default, field.name) for field in fields(default)}, **values})


class ServerOptimizer:
    """One optimiser and its moments over the rounds of a run.

    ``trainable`` names the parameters that it moves; everything else (running statistics, counters) becomes the sites'
    average, whole numbers included.
    """

    def __init__(self, spec: OptimizerSpec, trainable: Collection[str] = ()) -> None:
        self.spec = spec
        self.trainable = frozenset(trainable)
        self._first: Moment = {}
        self._second: Moment = {}

    def forget(self) -> None:
        """Begin anew: the moments of another stage's model say nothing about this one's."""
        self._first, self._second = {}, {}

    def step(self, before: Mapping[str, Any], averaged: Mapping[str, Any]) -> Arrays:
        """The new global model from the one ``before`` the round and the sites' average; dtypes are kept.

        Both map the same names to arrays of the same shapes; sums are float64.
        """
        return {
            name: self._moved(name, before[name], array)
            if name in self.trainable and array.dtype.kind == "f"
            else array
            for name, array in averaged.items()
        }

    def state_dict(self) -> dict[str, Moment]:
        """The moments, by parameter."""
        return {"first": dict(self._first), "second": dict(self._second)}

    def load_state_dict(self, state: Mapping[str, Moment]) -> None:
        """Go on with moments that ``state_dict`` gave."""
        self._first, self._second = dict(state["first"]), dict(state["second"])

    def _moved(self, name: str, before: np.ndarray[Any, Any], averaged: np.ndarray[Any, Any]) -> Any:
        spec = self.spec
        start = before.astype(np.float64)
        change = averaged.astype(np.float64) - start
        first = self._first.get(name)
        if spec.name == "sgd":
            first = change if first is None else spec.momentum * first + change
            self._first[name] = first
            return cast(start + spec.lr * first, before.dtype)
        first = (1 - spec.beta1) * change + (0 if first is None else spec.beta1 * first)
        second = self._second_moment(self._second.get(name), change**2)
        self._first[name], self._second[name] = first, second
        return cast(start + spec.lr * first / (np.sqrt(second) + spec.tau), before.dtype)

    def _second_moment(self, second: np.ndarray[Any, Any] | None, square: np.ndarray[Any, Any]) -> Any:
        spec = self.spec
        held = np.zeros_like(square) if second is None else second
        match spec.name:
            case "adam":
                return spec.beta2 * held + (1 - spec.beta2) * square
            case "yogi":
                return held - (1 - spec.beta2) * square * np.sign(held - square)
            case _:
                return held + square
