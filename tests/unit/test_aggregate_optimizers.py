"""Server optimisers against the formulas, written out by hand, over three rounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from flip_fl.aggregate.optimizers import OptimizerSpec, ServerOptimizer, read_optimizer

AVERAGES = (3.0, 2.5, 7.0)


def by_hand(second: Callable[[float, float], float], lr: float, beta1: float, tau: float) -> float:
    """One number after three rounds, each of whose averages is the model plus a fixed step."""
    w, m, v = 1.0, 0.0, 0.0
    for average in AVERAGES:
        d = average - w
        m = beta1 * m + (1 - beta1) * d
        v = second(v, d * d)
        w += lr * m / (math.sqrt(v) + tau)
    return w


def three_rounds(spec: OptimizerSpec, dtype: str = "float64") -> float:
    optimizer = ServerOptimizer(spec, {"w"})
    model: dict[str, Any] = {"w": np.array([1.0], dtype)}
    for average in AVERAGES:
        model = optimizer.step(model, {"w": np.array([average], dtype)})
    assert model["w"].dtype == np.dtype(dtype)
    return float(model["w"][0])


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("adam", lambda v, s: 0.99 * v + 0.01 * s),
        ("yogi", lambda v, s: v - 0.01 * s * math.copysign(1, v - s) if v != s else v),
        ("adagrad", lambda v, s: v + s),
    ],
)
def test_an_adaptive_optimiser_moves_as_its_formula_says(name: str, second: Callable[[float, float], float]) -> None:
    """Adam, Yogi and Adagrad of Reddi et al. 2021, algorithm 2, to the last bits."""
    spec = read_optimizer({"name": name, "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 1e-3})
    assert three_rounds(spec) == pytest.approx(by_hand(second, 0.1, 0.9, 1e-3), rel=1e-14)


def test_sgd_with_momentum_accumulates_differences() -> None:
    """m = 0.5 m + d: three steps with learning rate 0.2, by hand."""
    w, m = 1.0, 0.0
    for average in AVERAGES:
        m = 0.5 * m + (average - w)
        w += 0.2 * m
    assert three_rounds(read_optimizer({"name": "sgd", "lr": 0.2, "momentum": 0.5})) == pytest.approx(w, rel=1e-14)


def test_sgd_without_momentum_and_with_learning_rate_1_is_plain_averaging() -> None:
    """The server optimiser that changes nothing changes nothing."""
    assert three_rounds(read_optimizer({"name": "sgd", "momentum": 0.0})) == AVERAGES[-1]


def test_only_what_is_trained_is_moved() -> None:
    """Running statistics and counters become the average: Adam would make a variance negative."""
    optimizer = ServerOptimizer(read_optimizer("adam"), {"w"})
    before = {"w": np.zeros(2, "float32"), "running_var": np.ones(2, "float32"), "seen": np.array(3)}
    averaged = {"w": np.ones(2, "float32"), "running_var": np.full(2, 5.0, "float32"), "seen": np.array(9)}
    moved = optimizer.step(before, averaged)
    assert moved["running_var"] is averaged["running_var"]
    assert moved["seen"] is averaged["seen"]
    assert moved["w"].dtype == np.float32
    assert not np.array_equal(moved["w"], averaged["w"])


def test_moments_survive_a_restart() -> None:
    """An optimiser that goes on with another's moments moves as that one would have."""
    one, other = (ServerOptimizer(read_optimizer("yogi"), {"w"}) for _ in range(2))
    model = one.step({"w": np.zeros(3)}, {"w": np.ones(3)})
    other.load_state_dict(one.state_dict())
    averaged = {"w": np.array([3.0, -1.0, 0.5])}
    assert np.array_equal(one.step(model, averaged)["w"], other.step(model, averaged)["w"])
    other.forget()
    assert not np.array_equal(one.step(model, averaged)["w"], other.step(model, averaged)["w"])
