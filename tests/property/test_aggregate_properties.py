"""Properties of the average, for any updates."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.aggregate.average import Update, weighted_average

numbers = st.floats(-1e6, 1e6, width=32)
updates = st.lists(st.tuples(st.lists(numbers, min_size=3, max_size=3), st.integers(1, 10**6)), min_size=1, max_size=6)


@given(updates)
def test_the_average_is_the_exact_weighted_mean(given_updates: list[tuple[list[float], int]]) -> None:
    """It agrees with exact arithmetic to the precision of what was sent, and lies between the sites' values."""
    sent = [
        Update(f"Trust_{n}", {"w": np.array(values, dtype=np.float32)}, count)
        for n, (values, count) in enumerate(given_updates)
    ]
    averaged = weighted_average(sent)["w"]
    total = sum(count for _, count in given_updates)
    for position in range(3):
        column = [float(np.float32(values[position])) for values, _ in given_updates]
        exact = math.fsum(v * count for v, (_, count) in zip(column, given_updates, strict=True)) / total
        assert abs(float(averaged[position]) - exact) <= 1e-6 * max(map(abs, column)) + 1e-30
        slack = 1e-6 * max(map(abs, column))
        assert min(column) - slack <= averaged[position] <= max(column) + slack


@given(st.lists(numbers, min_size=1, max_size=5), st.integers(1, 8))
def test_equal_models_stay_what_they_are(values: list[float], sites: int) -> None:
    """Sites that agree are not moved by averaging."""
    model = np.array(values, dtype=np.float32)
    averaged = weighted_average([Update(f"Trust_{n}", {"w": model}, n + 1) for n in range(sites)])["w"]
    np.testing.assert_allclose(averaged, model, rtol=1e-6, atol=0)
