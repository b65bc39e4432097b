"""Which round's global model is the best, by what the sites measured of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What one site measured of the global model, and on how many examples."""

    slot: str
    num_examples: int
    metrics: Mapping[str, float]


def federated_metrics(scores: Iterable[Score], weights: Mapping[str, float] | None = None) -> dict[str, float]:
    """Each metric's mean over the sites that measured it, weighted by examples, or by ``weights`` (slot → number).

    A site without a weight, or without examples, does not count.
    """
    sums: dict[str, list[tuple[float, float]]] = {}
    for score in scores:
        weight = float(score.num_examples if weights is None else weights.get(score.slot, 0))
        for name, value in score.metrics.items():
            if weight > 0 and math.isfinite(value):
                sums.setdefault(name, []).append((value, weight))
    return {
        name: math.fsum(value * count for value, count in pairs) / sum(count for _, count in pairs)
        for name, pairs in sums.items()
    }


class BestModel:
    """Remembers the best round by ``metric`` (the higher the better, unless ``minimize``)."""

    def __init__(self, metric: str, minimize: bool = False) -> None:
        self.metric = metric
        self.minimize = minimize
        self.round: int | None = None
        self.value: float | None = None
        self._offered: set[str] = set()

    @property
    def unfound(self) -> str | None:
        """Why no round was kept, in words; None where one was."""
        if self.round is not None:
            return None
        given = f"; there were {', '.join(sorted(self._offered))}" if self._offered else ""
        return f"no round was kept as the best: no site validated {self.metric}, the BEST_MODEL_METRIC{given}"

    def offer(self, round: int, scores: Sequence[Score]) -> bool:
        """Whether ``round`` beats every earlier one.

        Of equal rounds the first stays; a round that no site measured the metric of never wins.
        """
        means = federated_metrics(scores)
        self._offered |= set(means)
        value = means.get(self.metric)
        if value is None:
            return False
        if self.value is not None and not (value < self.value if self.minimize else value > self.value):
            return False
        self.round, self.value = round, value
        return True
