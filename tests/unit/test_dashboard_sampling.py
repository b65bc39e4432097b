"""Which points of a long curve are drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.dashboard.sampling import Curve, Sampled, sampled, window


def curve(ys: list[float], xs: list[float] | None = None, rounds: list[int] | None = None) -> Curve:
    """One point a round from 1 on, unless said otherwise."""
    x = np.arange(1.0, len(ys) + 1) if xs is None else np.asarray(xs, dtype=float)
    numbers = x.astype(np.int64) if rounds is None else np.asarray(rounds, dtype=np.int64)
    return Curve(x, np.asarray(ys, dtype=float), numbers)


def shown(given_curve: Curve, most: int, rounds: np.ndarray | None = None) -> Sampled:
    return sampled(given_curve, np.unique(given_curve.rounds) if rounds is None else rounds, most)


def pairs(given_curve: Curve) -> list[tuple[float, float]]:
    return list(zip(given_curve.x.tolist(), given_curve.y.tolist(), strict=True))


def long_curve(points: int) -> Curve:
    dice = np.random.default_rng(7)
    ys = np.cumsum(dice.normal(size=points))
    ys[points // 3] = 1e6
    return curve(ys.tolist())


def test_up_to_the_limit_a_curve_is_drawn_as_it_is() -> None:
    """Federated runs are small: nothing is left out of them."""
    found = shown(long_curve(2000), 2000)
    assert pairs(found.curve) == pairs(long_curve(2000))
    assert found.total == 2000


def test_above_it_the_spike_the_ends_and_nothing_invented_are_drawn() -> None:
    """One odd value among 100,000 is what somebody looks for; no value stands there that was not measured."""
    whole = long_curve(100_000)
    found = shown(whole, 2000)
    assert len(found.curve) <= 2000 < found.total == 100_000
    assert set(pairs(found.curve)) <= set(pairs(whole))
    assert 1e6 in found.curve.y
    assert min(found.curve.y) == min(whole.y)
    assert (found.curve.x[0], found.curve.x[-1]) == (1.0, 100_000.0)
    assert np.all(np.diff(found.curve.x) > 0)
    assert len(found.breaks) == 0


def test_what_was_drawn_stays_while_the_curve_grows() -> None:
    """A curve that jumps at each update is read as a fault: old picks only ever thin out when buckets double."""
    whole = long_curve(10_000)
    before: set[tuple[float, float]] = set()
    changes = 0
    for length in range(9_000, 10_001, 25):
        part = whole.take(np.arange(length))
        now = set(pairs(shown(part, 1000).curve))
        # The newest bucket is still open.
        settled = {point for point in now if point[0] <= length - 64}
        changes += len(settled - before) if before else 0
        before = now | set(pairs(part.take(np.arange(max(0, length - 64), length))))
    assert changes == 0


def test_a_missing_round_cuts_the_line_also_where_points_are_left_out() -> None:
    """A site that was away for ten rounds has a gap, with the values on both sides of it."""
    away = range(5_001, 5_011)
    whole = long_curve(10_000)
    kept = np.flatnonzero(~np.isin(whole.rounds, list(away)))
    found = shown(whole.take(kept), 500, np.arange(1, 10_001))
    (cut,) = found.breaks.tolist()
    assert (found.curve.x[cut - 1], found.curve.x[cut]) == (5_000.0, 5_011.0)


def test_rounds_that_nobody_has_are_no_gap() -> None:
    """A metric that all sites measure every fifth round has one unbroken line."""
    every_fifth = curve([0.0] * 10, xs=list(range(5, 55, 5)))
    assert len(shown(every_fifth, 20).breaks) == 0
    assert shown(every_fifth, 20, np.arange(1, 51)).breaks.tolist() == list(range(1, 10))


def test_a_refused_value_stays_and_cuts_the_line() -> None:
    """NaN at a site is told, however long the curve is; its neighbours stay beside it."""
    ys = long_curve(10_000).y.copy()
    ys[7_000] = math.nan
    found = shown(curve(ys.tolist()), 200)
    (place,) = np.flatnonzero(np.isnan(found.curve.y)).tolist()
    assert found.curve.x[place - 1 : place + 2].tolist() == [7_000.0, 7_001.0, 7_002.0]
    assert found.breaks.tolist() == [place, place + 1]


def test_a_window_reaches_one_point_further_on_both_sides() -> None:
    """Zoomed in, the line still leaves the picture where it does."""
    assert window(curve([0.0] * 10), 4.0, 6.5).x.tolist() == [3.0, 4.0, 5.0, 6.0, 7.0]
    assert window(curve([0.0] * 3), -5.0, 99.0).x.tolist() == [1.0, 2.0, 3.0]
    assert len(window(curve([]), 0.0, 1.0)) == 0


@pytest.mark.parametrize("xs", [[], [3.0], [3.0] * 50, [-1.7e308, 1.7e308] * 20, [0.0, 5e-324, 1e-323] * 10])
def test_odd_axes_are_drawn(xs: list[float]) -> None:
    """An empty curve, one place only, and the ends of what a number can be."""
    xs = sorted(xs)
    found = shown(curve([float(n % 7) for n in range(len(xs))], xs, [1] * len(xs)), 10)
    assert found.total == len(xs)
    if xs:
        assert {0.0, min(6.0, len(xs) - 1.0)} <= set(found.curve.y.tolist())


@given(
    steps=st.lists(st.floats(0, 1e6), min_size=3, max_size=300),
    most=st.integers(2, 50),
    data=st.data(),
)
def test_extremes_and_ends_are_always_there(steps: list[float], most: int, data: st.DataObject) -> None:
    """Whatever the axis: real points in order, first, last, smallest, largest; more than asked for only by gaps."""
    xs = np.cumsum(steps)
    ys = data.draw(st.lists(st.floats(-1e6, 1e6), min_size=len(steps), max_size=len(steps)))
    whole = curve(ys, xs.tolist(), [1] * len(steps))
    found = shown(whole, most)
    assert set(pairs(found.curve)) <= set(pairs(whole))
    assert {min(ys), max(ys)} <= set(found.curve.y.tolist())
    assert (found.curve.x[0], found.curve.x[-1]) == (whole.x[0], whole.x[-1])
    # At the least two buckets of two each, first and last.
    assert len(found.curve) <= max(most, 6)
