"""How the sites' updates of a round differ, read from Flower's messages where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from flip_fl.aggregate.comparison import comparison
from flip_fl.flower.handling import Handling
from flip_fl.flower.npy import Layout, NpyError, layout_of, view
from flip_fl.flower.protocol import NUM_EXAMPLES
from flip_fl.flower.quarantine import records_of
from flip_fl.privacy.counts import CountPolicy


@dataclass(frozen=True)
class Measure:
    """``weighted_by`` is the metric by which the strategy weights; ``weights`` (slot → number) go before it."""

    weighted_by: str = NUM_EXAMPLES
    weights: Mapping[str, float] | None = None

    def parts(self, sent: ArrayRecord, replies: Mapping[str, Message], policy: CountPolicy) -> list[dict[str, Any]]:
        """See ``aggregate.comparison``; ``sent`` is the round's global model, ``replies`` are usable ones by slot.

        Of a strategy that sends something else than its global model, what is told are differences to that model.
        """
        layouts = _layouts(sent)
        returned = {slot: _model(reply, layouts) for slot, reply in replies.items()}
        metrics = {slot: _metrics(reply) for slot, reply in replies.items()}
        counts = {slot: n for slot, found in metrics.items() if (n := _whole(found.get(NUM_EXAMPLES))) is not None}
        weights = self.weights
        if weights is None and self.weighted_by != NUM_EXAMPLES:
            weights = {slot: _number(found.get(self.weighted_by)) for slot, found in metrics.items()}
        return comparison(_views(sent, layouts), returned, counts, policy, weights)


def measure_of(handling: Handling, weights: Mapping[str, float] | None = None) -> Measure | None:
    """How to compare what a strategy's sites return; None where the strategy lets nobody know of a single one."""
    return None if handling.noises else Measure(handling.weight_key, weights)


def _layouts(record: ArrayRecord) -> dict[str, Layout]:
    layouts = {}
    for name, array in record.items():
        try:
            layouts[name] = layout_of(array)
        except NpyError:
            continue
    return layouts


def _model(reply: Message, layouts: Mapping[str, Layout]) -> dict[str, np.ndarray[Any, Any]]:
    records = records_of(reply.content, ArrayRecord)
    return _views(records[0], layouts) if len(records) == 1 else {}


def _views(record: ArrayRecord, layouts: Mapping[str, Layout]) -> dict[str, np.ndarray[Any, Any]]:
    views = {}
    for name, array in record.items():
        # Of what a check of the caller's own has let through, only what is a numpy array.
        try:
            views[name] = view(array, layouts.get(name))
        except NpyError:
            continue
    return views


def _metrics(reply: Message) -> Mapping[str, Any]:
    return next(iter(records_of(reply.content, MetricRecord)), {})


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
