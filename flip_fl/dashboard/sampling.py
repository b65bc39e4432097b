"""Which points of a long curve are drawn: the extremes of buckets that do not move while the curve grows.

A bucket spans 2^k of the x-axis and begins at a multiple of that, so a point that arrives changes no pick to its left;
when buckets double, what stays is a part of what was picked before. Every point that is shown is one that was stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """One series in x order; all three of the same length. ``y`` is NaN where a value was refused as not finite."""

    x: Numbers
    y: Numbers
    rounds: Integers

    def __len__(self) -> int:
        return len(self.x)

    def part(self, where: slice) -> Curve:
        """The points of one stretch, without a copy."""
        return Curve(self.x[where], self.y[where], self.rounds[where])

    def take(self, picked: Integers) -> Curve:
        """The points at these positions."""
        return Curve(self.x[picked], self.y[picked], self.rounds[picked])


@dataclass(frozen=True)
class Sampled:
    """What is drawn of a curve: some of its points, ``total`` of how many, and where the line is cut.

    ``breaks``: the positions in ``curve`` before which there is a gap.
    """

    curve: Curve
    total: int
    breaks: Integers


def sampled(curve: Curve, plot_rounds: Integers, most: int) -> Sampled:
    """``curve`` as it is up to ``most`` points; of a longer one smallest and largest of each bucket, first and last.

    Both sides of every gap and every refused value stay too: only they can make the answer longer than ``most``.
    ``plot_rounds`` are the rounds, sorted and each once, of all curves of the plot; a gap is a round that others
    have. Raises ``ValueError`` unless ``most`` is at least 2.
    """
    if most < 2:
        raise ValueError("a curve is drawn with 2 points at least")
    cuts = gaps(curve, plot_rounds)
    if len(curve) <= most:
        return Sampled(curve, len(curve), np.flatnonzero(cuts))
    picked = _picked(curve, cuts, most)
    # Between two that were picked the line is cut if it was anywhere on the way.
    run = np.cumsum(cuts)[picked]
    return Sampled(curve.take(picked), len(curve), np.flatnonzero(run[1:] != run[:-1]) + 1)


def window(curve: Curve, low: float, high: float) -> Curve:
    """The points from ``low`` to ``high`` and one on either side, to which the line goes on."""
    return curve.part(span(curve, low, high))


def span(curve: Curve, low: float, high: float) -> slice:
    """Where the points of a ``window`` are."""
    if low == -math.inf and high == math.inf:
        return slice(0, len(curve))
    first = int(np.searchsorted(curve.x, low, side="left"))
    last = int(np.searchsorted(curve.x, high, side="right"))
    return slice(max(0, first - 1), min(len(curve), last + 1))


def gaps(curve: Curve, plot_rounds: Integers) -> NDArray[np.bool_]:
    """For each point whether the line is cut before it: a round that others have is missing, or a value was refused."""
    cuts = np.zeros(len(curve), dtype=bool)
    if len(curve) > 1:
        place = np.searchsorted(plot_rounds, curve.rounds)
        refused = np.isnan(curve.y)
        cuts[1:] = (place[1:] - place[:-1] > 1) | refused[1:] | refused[:-1]
    return cuts


def _picked(curve: Curve, cuts: NDArray[np.bool_], most: int) -> Integers:
    always = cuts | np.isnan(curve.y)
    always[:-1] |= cuts[1:]
    always[[0, -1]] = True
    first, last = float(curve.x[0]), float(curve.x[-1])
    # Halved, because the difference of two numbers may be larger than any number.
    half = last / 2 - first / 2
    # Two of each bucket: no narrower ones can do.
    power = math.ceil(math.log2(half) + 2 - math.log2(most)) if half > 0 else 0
    while True:
        kept = always.copy()
        kept[_extremes(curve, cuts, power)] = True
        picked = np.flatnonzero(kept)
        if len(picked) <= most or np.ptp(_buckets(curve.x[[0, -1]], power)) <= 1:
            return picked
        power += 1


def _buckets(x: Numbers, power: int) -> Numbers:
    # Exact, and without the factor itself, which may be larger than any number.
    return np.floor(np.ldexp(x, -power))


def _extremes(curve: Curve, cuts: NDArray[np.bool_], power: int) -> Integers:
    """Where the first smallest and first largest value of each bucket of each unbroken run are."""
    bucket = _buckets(curve.x, power)
    opens = cuts.copy()
    opens[0] = True
    opens[1:] |= bucket[1:] != bucket[:-1]
    starts = np.flatnonzero(opens)
    group = np.cumsum(opens)
    found = []
    for extreme in (np.minimum, np.maximum):
        # A refused value stands alone in its run; it equals nothing, not even itself.
        hits = np.flatnonzero(curve.y == extreme.reduceat(curve.y, starts)[group - 1])
        of = group[hits]
        first = np.ones(len(hits), dtype=bool)
        first[1:] = of[1:] != of[:-1]
        found.append(hits[first])
    return np.concatenate(found)
