"""Differences of models and what is made of them again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from flip_fl.aggregate.differences import difference, restored


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_whole_numbers_and_booleans_come_back_exactly(dtype: str) -> None:
    """Counters and masks survive the way as a difference, also where the difference wraps."""
    before = {"a": np.array([0, 1, 1, 0]).astype(dtype)}
    after = {"a": np.array([1, 0, 1, 0]).astype(dtype)}
    change = difference(before, after)
    back = restored(before, change)
    assert change["a"].dtype == back["a"].dtype == np.dtype(dtype)
    assert np.array_equal(back["a"], after["a"])


@given(
    hnp.arrays("float32", 8, elements=st.floats(-1e3, 1e3, width=32)),
    hnp.arrays("float32", 8, elements=st.floats(-1e3, 1e3, width=32)),
)
def test_floats_come_back_within_rounding(before: np.ndarray, after: np.ndarray) -> None:  # type: ignore[type-arg]
    """A difference costs at most the rounding of the larger of the two numbers."""
    back = restored({"a": before}, difference({"a": before}, {"a": after}))["a"]
    scale = np.maximum(np.abs(before), np.abs(after))
    assert back.dtype == np.float32
    assert np.all(np.abs(back.astype(float) - after) <= 2 * np.finfo("float32").eps * scale + 1e-40)
