"""The house's aggregation as an NVFLARE aggregator: float64, slot order, cast back to the dtypes that were sent."""

from __future__ import annotations

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.aggregator import Aggregator
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.app_constant import AppConstants

from flip_fl.aggregate.average import Arrays, Update, check_update, weighted_average
from flip_fl.aggregate.best import Score, federated_metrics
from flip_fl.nvflare.protocol import NUM_EXAMPLES_META, sender


class SlotOrderAggregator(Aggregator):
    """Weighted average by ``num_examples``, or by ``aggregation_weights`` (kit slot → weight) where given.

    Our controller calls ``average``; under ScatterAndGather NVFLARE calls ``accept`` and ``aggregate``.
    """

    def __init__(self, aggregation_weights: dict[str, float] | None = None) -> None:
        super().__init__()
        self.aggregation_weights = aggregation_weights or {}
        self._updates: dict[str, Update] = {}

    def average(self, updates: list[Update]) -> Arrays:
        """The new global model of ``updates``. Raises ``ValueError`` for an empty list."""
        return weighted_average(updates, self.aggregation_weights or None)

    def mean(self, scores: list[Score]) -> dict[str, float]:
        """Each metric's mean over the sites that measured it, weighted as their models would be."""
        return federated_metrics(scores, self.aggregation_weights or None)

    def accept(self, shareable: Shareable, fl_ctx: FLContext) -> bool:
        dxo = from_shareable(shareable)
        slot = sender(shareable, fl_ctx)
        examples = dxo.meta.get(NUM_EXAMPLES_META, dxo.meta.get(MetaKey.NUM_STEPS_CURRENT_ROUND, 1))
        update = Update(slot=slot, arrays=dxo.data, num_examples=int(examples))
        reference = fl_ctx.get_prop(AppConstants.GLOBAL_MODEL)
        reason = check_update(reference[ModelLearnableKey.WEIGHTS], update) if reference else None
        if reason:
            self.log_error(fl_ctx, f"the result of {slot} is rejected: {reason}")
            return False
        self._updates[slot] = update
        return True

    def aggregate(self, fl_ctx: FLContext) -> Shareable:
        updates, self._updates = list(self._updates.values()), {}
        return DXO(DataKind.WEIGHTS, data=self.average(updates)).to_shareable()

    def reset(self, fl_ctx: FLContext) -> None:
        self._updates = {}
