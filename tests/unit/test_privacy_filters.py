"""A site's filters: exact where they bound, honest about their noise, and closed where they cannot."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from flip_fl.privacy import analytic
from flip_fl.privacy.gaussian import Mechanism
from flip_fl.privacy.percentile import sparsify
from flip_fl.privacy.pipeline import filtered
from flip_fl.privacy.policy import Clipping, FilterSet, Gaussian, Percentile
from flip_fl.privacy.updates import CHUNK, NotFiltered, Update

SIZES = (0, 1, 7, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5)


def arrays(seed: int = 0, dtype: Any = np.float32) -> dict[str, Any]:
    made = np.random.default_rng(seed)
    found = {f"w{size}": made.standard_normal(size).astype(dtype) for size in SIZES}
    return {**found, "scale": np.asarray(made.standard_normal(), dtype), "steps": np.asarray(seed, np.int64)}


def change(before: dict[str, Any], after: dict[str, Any]) -> np.ndarray[Any, Any]:
    both = [np.ravel(after[name]).astype(np.float64) - np.ravel(before[name]) for name in before if name != "steps"]
    return np.concatenate(both)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("difference", [False, True])
def test_clipping_bounds_the_whole_update_and_keeps_its_direction(dtype: Any, difference: bool) -> None:
    """No array and no number of an update escapes the norm, in whole models and in differences, in any width."""
    before, after = arrays(0, dtype), arrays(1, dtype)
    was = change(before, after)
    sent = {n: after[n] - before[n] for n in after} if difference else {n: after[n].copy() for n in after}
    got = filtered(FilterSet(clipping=Clipping(norm=3.0)), before, sent, difference=difference)
    now = change(before, {n: before[n] + got[n] for n in got} if difference else got)
    exact = dtype is np.float64
    assert np.linalg.norm(now) <= 3.0 * (1 + (1e-12 if exact else 1e-3 if dtype is np.float32 else 0.5))
    assert np.linalg.norm(now) >= 3.0 * (1 - (1e-4 if dtype is not np.float16 else 0.5))
    if exact:
        assert np.allclose(now, was * 3.0 / np.linalg.norm(was), rtol=1e-4)
    assert int(got["steps"]) == 0  # as received, or no difference
    assert {name: (got[name].dtype, got[name].shape) for name in got} == {
        name: (after[name].dtype, after[name].shape) for name in after
    }


def test_a_short_update_is_not_changed() -> None:
    """Clipping is a bound and no scaling: what is short enough leaves as it is."""
    before, after = arrays(0), arrays(0)
    after["w7"] = after["w7"] + np.float32(0.25)
    got = filtered(FilterSet(clipping=Clipping(norm=3.0)), before, dict(after), difference=False)
    assert np.allclose(got["w7"], after["w7"], atol=1e-6)


@pytest.mark.parametrize("percentile", [0, 10, 50, 99.9, 100])
def test_sparsification_drops_what_is_small_and_cuts_what_is_large(percentile: float) -> None:
    """The share that is left out and the cut are those that were asked for, over all arrays together."""
    before, after = arrays(0, np.float64), arrays(1, np.float64)
    was = np.abs(change(before, after).astype(np.float32))
    update = Update(before, {name: after[name].copy() for name in after})
    sparsify(update, percentile, 1.5)
    now = np.abs(change(before, update.write()))
    cutoff = np.sort(was)[max(1, math.ceil(was.size * percentile / 100)) - 1]
    kept = was >= cutoff
    assert np.all(now[~kept] == 0)
    assert np.allclose(now[kept], np.minimum(was[kept], 1.5), atol=1e-6)


@pytest.mark.parametrize("alike", ["layers", "zeros", "all", "spread"])
@pytest.mark.parametrize("percentile", [1, 30, 75])
def test_the_cut_off_is_exact_for_any_distribution(alike: str, percentile: float) -> None:
    """A frozen layer, layers of different sizes, and equal numbers: none is ranked by a guess of a sample."""
    made = np.random.default_rng(5)
    size = 2 * CHUNK + 77
    layers = {
        "layers": [made.normal(0, scale, size) for scale in (1e-6, 1.0, 1e3)],
        "zeros": [np.zeros(size), made.normal(0, 1, size), np.zeros(size)],
        "all": [np.full(size, 0.5)] * 2,
        "spread": [np.exp(made.normal(0, 8, size))],
    }[alike]
    after = {str(number): layer.astype(np.float32) for number, layer in enumerate(layers)}
    before = {name: np.zeros_like(layer) for name, layer in after.items()}
    every = np.abs(np.concatenate(list(after.values())))
    update = Update(before, {name: layer.copy() for name, layer in after.items()})
    sparsify(update, percentile, 1e30)
    left = np.abs(np.concatenate(list(update.write().values())))
    cutoff = np.sort(every)[math.ceil(every.size * percentile / 100) - 1]
    assert np.array_equal(left, np.where(every < cutoff, 0, every))


def test_sparsification_refuses_what_would_switch_it_off() -> None:
    """A percentile beyond 100 or a gamma of 0 makes a filter that does nothing, or one that sends nothing."""
    for percentile, gamma in ((-1, 1.0), (101, 1.0), (10, 0.0), (10, -1.0), (10, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match=r"must be"):
            sparsify(Update({}, {}), percentile, gamma)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gaussian_mechanism_adds_the_noise_that_its_epsilon_needs(dtype: Any) -> None:
    """The noise is what sensitivity, ε and δ demand, on every number, the ones without an axis included."""
    rule = Gaussian(epsilon=1.0, delta=1e-5, clipping_norm=2.0)
    before, after = arrays(0, dtype), arrays(0, dtype)
    got = filtered(FilterSet(gaussian=rule), before, {n: after[n].copy() for n in after}, difference=False)
    noise = change(before, got)
    assert rule.mechanism.sigma == pytest.approx(2 * 2.0 * 3.730631634944469, rel=1e-6)
    assert np.std(noise) == pytest.approx(rule.mechanism.sigma, rel=0.01)
    assert abs(np.mean(noise)) < 6 * rule.mechanism.sigma / math.sqrt(noise.size)
    assert float(got["scale"]) != float(before["scale"])
    # Chunks of different threads and arrays share no noise.
    first, second = (
        (got[f"w{CHUNK}"] - before[f"w{CHUNK}"])[:1000],
        (got[f"w{CHUNK + 1}"] - before[f"w{CHUNK + 1}"])[:1000],
    )
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.2


@pytest.mark.parametrize(
    ("epsilon", "delta", "multiplier"),
    # σ/Δ as dp-accounting 0.6 has it (GaussianPrivacyLoss.from_privacy_guarantee); 3.7306 is published often.
    [
        (0.1, 1e-5, 30.74957),
        (0.5, 1e-5, 7.031827),
        (1.0, 1e-5, 3.730632),
        (2.0, 1e-6, 2.230476),
        (10.0, 1e-5, 0.4998886),
    ],
)
def test_the_calibration_is_the_analytic_one(epsilon: float, delta: float, multiplier: float) -> None:
    """Protects from the textbook formula, which gives too little noise beyond an ε of 1 and too much below."""
    found = analytic.noise_multiplier(epsilon, delta)
    assert found == pytest.approx(multiplier, rel=1e-6)
    assert analytic.delta_of(found, epsilon) == pytest.approx(delta, rel=1e-6)
    assert analytic.delta_of(found, epsilon) <= delta * (1 + 1e-9)


@pytest.mark.parametrize("epsilon", [1e-3, 30.0, 300.0, 3000.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-3, 0.4])
def test_the_calibration_holds_for_every_epsilon(epsilon: float, delta: float) -> None:
    """Neither tail overflows: a site may ask for any (ε, δ)."""
    found = analytic.noise_multiplier(epsilon, delta)
    assert analytic.delta_of(found, epsilon) <= delta
    assert analytic.delta_of(found * 0.999, epsilon) > delta


def test_filters_run_in_their_order() -> None:
    """What is clipped, sparsified and cut is at last bounded by the Gaussian's own norm: its ε holds whatever came."""
    before = {"w": np.zeros(1000, np.float64)}
    after = {"w": np.full(1000, 100.0)}
    filters = FilterSet(
        clipping=Clipping(norm=50.0),
        percentile=Percentile(percentile=10.0, gamma=1.0),
        gaussian=Gaussian(epsilon=1e6, delta=1e-5, clipping_norm=2.0),
    )
    got = filtered(filters, before, after, difference=False)
    assert np.linalg.norm(got["w"]) == pytest.approx(2.0, rel=0.02)
    assert filters.gaussian is not None
    assert filters.gaussian.mechanism == Mechanism(2.0, 1e6, 1e-5)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"w": np.zeros(3, np.float32)}, "other names"),
        ({"w": np.zeros(3, np.float32), "v": np.zeros(2, np.float32), "u": np.zeros(1)}, "other names"),
        ({"w": np.zeros(4, np.float32), "v": np.zeros(2, np.float32)}, "'w' has another shape"),
        ({"w": np.zeros(3, np.complex64), "v": np.zeros(2, np.float32)}, "'w' holds neither"),
        ({"w": np.array(["a", "b", "c"]), "v": np.zeros(2, np.float32)}, "'w' holds neither"),
        ({"w": np.array([None] * 3), "v": np.zeros(2, np.float32)}, "'w' holds neither"),
        ({"w": np.zeros(3, np.int64), "v": np.zeros(2, np.float32)}, "'w' holds neither"),
        ({"w": np.array([1, 2, np.nan], np.float32), "v": np.zeros(2, np.float32)}, "NaN or infinity"),
        ({"w": np.array([1, 2, np.inf], np.float32), "v": np.zeros(2, np.float32)}, "NaN or infinity"),
    ],
)
@pytest.mark.parametrize(
    "filters",
    [
        FilterSet(clipping=Clipping(norm=1.0)),
        FilterSet(percentile=Percentile()),
        FilterSet(gaussian=Gaussian(epsilon=1.0, delta=1e-5, clipping_norm=1.0)),
    ],
)
def test_what_cannot_be_bounded_does_not_pass(sent: dict[str, Any], words: str, filters: FilterSet) -> None:
    """Another name or shape, whole numbers in the place of weights, objects, NaN: closed, with the thing named."""
    with pytest.raises(NotFiltered, match=words):
        filtered(filters, {"w": np.zeros(3, np.float32), "v": np.zeros(2, np.float32)}, sent, difference=False)


def test_views_and_read_only_arrays_are_copied_and_what_was_received_stays() -> None:
    """In place means in what leaves: a message's read-only buffer, and the received model, are never written to."""
    before = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "v": np.ones(4, np.float32)}
    still = {name: array.copy() for name, array in before.items()}
    wide = np.arange(12, dtype=np.float32).reshape(2, 6)[:, ::2]
    locked = np.full(4, 3, np.float32)
    locked.flags.writeable = False
    got = filtered(FilterSet(clipping=Clipping(norm=1.0)), before, {"w": wide, "v": locked}, difference=False)
    assert all(np.array_equal(before[name], still[name]) for name in before)
    assert np.all(locked == 3)
    same = filtered(
        FilterSet(clipping=Clipping(norm=1.0)), before, {"w": before["w"], "v": before["v"]}, difference=False
    )
    assert np.array_equal(same["w"], still["w"])
    assert got["w"].shape == (2, 3)
