"""Properties of what is told of the sites' updates, for any models and counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.aggregate import heterogeneity
from flip_fl.aggregate.comparison import comparison
from flip_fl.aggregate.heterogeneity import Spread, spread
from flip_fl.privacy.counts import CountPolicy

shapes = st.lists(st.lists(st.integers(0, 4), max_size=3).map(tuple), min_size=1, max_size=5)
kinds = st.sampled_from([np.float16, np.float32, np.float64])


@given(shapes, st.integers(1, 5), st.data(), st.integers(0, 2**32 - 1))
def test_norm_and_cosine_are_those_of_the_plain_formula(
    given_shapes: list[tuple[int, ...]], sites: int, data: st.DataObject, seed: int
) -> None:
    """However arrays are cut into blocks, whatever their shapes, order and dtypes: one long float64 vector a site."""
    random = np.random.default_rng(seed)
    sent = {f"p{k}": random.normal(size=shape).astype(data.draw(kinds)) for k, shape in enumerate(given_shapes)}

    def trained(array: Any) -> Any:
        moved = array + random.normal(size=array.shape)
        return np.asarray(moved, dtype=array.dtype, order=random.choice(["C", "F"]))

    returned = {f"Trust_{n}": {name: trained(array) for name, array in sent.items()} for n in range(sites)}
    weights = {slot: data.draw(st.integers(1, 100)) for slot in returned}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(heterogeneity, "_TOGETHER", data.draw(st.sampled_from([1, 7, 100])))
        patched.setattr(heterogeneity, "_LEAST_WIDTH", data.draw(st.sampled_from([1, 3, 8])))
        found = spread(sent, returned, weights)

    def line(model: dict[str, Any]) -> Any:
        return np.concatenate([model[name].astype(np.float64).ravel() - sent[name].ravel() for name in sent])

    if not sum(array.size for array in sent.values()):
        assert set(found.values()) == {Spread(None, None)}
        return
    lines = {slot: line(model) for slot, model in returned.items()}
    mean = sum(weights[slot] * each for slot, each in lines.items()) / sum(weights.values())
    for slot, each in lines.items():
        assert found[slot].norm == pytest.approx(np.linalg.norm(each), rel=1e-9, abs=1e-300)
        size = np.linalg.norm(each) * np.linalg.norm(mean)
        if size > 1e-9:
            assert found[slot].cosine == pytest.approx(each @ mean / size, abs=1e-7)
        elif size == 0:
            assert found[slot].cosine is None


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.integers(0, 20),
    st.integers(0, 2**32 - 1),
    st.integers(0, 5),
)
def test_a_withheld_count_changes_nothing_that_is_told(
    counts: list[int], threshold: int, seed: int, which: int
) -> None:
    """Whoever reads the whole event cannot tell 0 from 9: with any other small count in its place it is the same."""
    random = np.random.default_rng(seed)
    sent = {"w": random.normal(size=7)}
    returned = {f"Trust_{n}": {"w": random.normal(size=7)} for n in range(len(counts))}
    by_slot = dict(zip(returned, counts, strict=True))
    policy = CountPolicy(threshold)
    told = comparison(sent, returned, by_slot, policy)
    small = [slot for slot, count in by_slot.items() if count < threshold]
    if small:
        slot = small[which % len(small)]
        for other in range(threshold):
            assert comparison(sent, returned, {**by_slot, slot: other}, policy) == told
