"""Updates as whole numbers: what their sum says of the mean, and what they cannot hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flip_fl.aggregate.average import Update, weighted_average
from flip_fl.aggregate.fixed_point import (
    MAX_TOTAL_EXAMPLES,
    DoesNotFit,
    decoded,
    encoded,
    length_of,
    step_of,
)

Model = dict[str, np.ndarray[Any, Any]]


def model(seed: int, spread: float) -> Model:
    """Every kind of number that a model may hold, 0-d and empty arrays among them."""
    draw = np.random.default_rng(seed)
    return {
        "weight": (draw.normal(size=(3, 5)) * spread).astype(np.float32),
        "half": (draw.normal(size=4) * spread).astype(np.float16),
        "wide": draw.normal(size=6) * spread,
        "turned": np.asarray((draw.normal(size=(2, 2)) * spread).astype(np.float32)).T,
        "scale": np.array(draw.normal() * spread, dtype=np.float32),
        "phase": (draw.normal(size=3) + 1j * draw.normal(size=3)).astype(np.complex64) * np.float32(spread),
        "seen": draw.integers(0, 500, size=2),
        "small": draw.integers(0, 200, size=3).astype(np.uint8),
        "large": draw.integers(2**63, 2**63 + 1000, size=2, dtype=np.uint64),
        "mask": draw.integers(0, 2, size=4).astype(bool),
        "none": np.zeros((0, 3), dtype=np.float32),
    }


@pytest.mark.parametrize("reach", [1.0, 64.0, 1000.0])
def test_the_sum_gives_the_weighted_mean_to_half_a_step(reach: float) -> None:
    """The mean out of the sum is that of the plain models within the bound that the documentation states."""
    before = model(0, 0.1)
    weights = [7, 1, 92_000]
    after = [model(seed, 0.1) for seed in (1, 2, 3)]
    vectors = [encoded(before, each, weight, reach) for each, weight in zip(after, weights, strict=True)]
    found = decoded(before, vectors[0] + vectors[1] + vectors[2], sum(weights), reach)
    updates = [Update(f"Trust_{n}", each, weight) for n, (each, weight) in enumerate(zip(after, weights, strict=True))]
    expected = weighted_average(updates)
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        name: (a.dtype, a.shape) for name, a in before.items()
    }
    for name, array in expected.items():
        if array.dtype.kind not in "fc":
            # Near 2**63 a float64, in which both are averaged, is 1024 from the next one.
            np.testing.assert_allclose(found[name].astype(float), array.astype(float), atol=0, rtol=2**-52)
            continue
        precision = np.finfo(array.dtype).eps
        # Half a step, and what the dtype itself rounds off.
        bound = step_of(reach) / 2 * (2 if array.dtype.kind == "c" else 1) + precision * np.abs(array)
        assert (np.abs(found[name] - array) <= bound).all(), name


def test_the_largest_weights_and_changes_do_not_overflow() -> None:
    """At the edge of what is let through the sum still has its sign and its size."""
    before = {"weight": np.zeros(2), "seen": np.zeros(2, dtype=np.int64)}
    after = {"weight": np.array([64.0, -64.0]), "seen": np.array([2**36, -(2**36)])}
    total = encoded(before, after, MAX_TOTAL_EXAMPLES, 64.0)
    found = decoded(before, total, MAX_TOTAL_EXAMPLES, 64.0)
    np.testing.assert_array_equal(found["weight"], after["weight"])
    np.testing.assert_array_equal(found["seen"], after["seen"])


@pytest.mark.parametrize("value", [64.1, -64.1, np.nan, np.inf])
def test_a_change_beyond_the_range_is_refused_by_name(value: float) -> None:
    """Nothing is clipped in silence: the parameters are named, and no value is shown."""
    before = {"a": np.zeros(3), "b": np.zeros(3), "c": np.zeros(())}
    after = {"a": np.zeros(3), "b": np.array([0, value, 0]), "c": np.array(value)}
    with pytest.raises(DoesNotFit) as refused:
        encoded(before, after, 1, 64.0)
    assert str(refused.value) == ("training has changed numbers by more than 64 (SECURE_AGGREGATION_RANGE) in 'b', 'c'")


def test_a_whole_number_that_jumps_too_far_is_refused() -> None:
    """A counter's change has bits of its own to fit into, and no range can be set for it."""
    before = {"seen": np.array([0], dtype=np.uint64)}
    with pytest.raises(DoesNotFit, match=r"by more than 2\*\*36 in 'seen'"):
        encoded(before, {"seen": np.array([2**37], dtype=np.uint64)}, 1, 64.0)


def test_a_sum_that_still_has_a_mask_is_no_mean() -> None:
    """The weight that goes through the same masks tells a sum that was not unmasked."""
    before = {"a": np.zeros(3)}
    vector = encoded(before, {"a": np.ones(3)}, 5, 64.0)
    assert vector.shape == (length_of(before),)
    with pytest.raises(ValueError, match="the weights in the sum are not the sites'"):
        decoded(before, vector + np.uint64(1), 5, 64.0)
