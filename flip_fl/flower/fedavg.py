"""``FlipFedAvg`` of existing apps: Flower's FedAvg in its choice of sites, the house's in its aggregation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flip_fl.aggregate.best import BestModel
from flip_fl.core.base import FLIPBase
from flip_fl.core.factory import FLIP
from flip_fl.flower.average import SlotOrderFedAvg, score_of
from flip_fl.flower.protocol import NUM_EXAMPLES


class FlipFedAvg(FedAvg):
    """FedAvg whose models are those of ``SlotOrderFedAvg``: float64, slot order, the dtypes that were sent.

    ``flip`` and ``model_id`` are taken as existing apps give them, and reported with neither: in a job of flip_fl, or
    behind ``flip_fl.flower.run``, every strategy is reported. With ``best_model_metric`` the best round's model is kept
    in ``best_model_arrays`` (``best_model_round``, ``best_model_metric_value``; None until a round has the metric).
    Weighted by another key than "num-examples", it aggregates as Flower's own does.
    """

    def __init__(
        self,
        flip: object = None,
        model_id: object = None,
        *args: Any,
        best_model_metric: str | None = None,
        best_model_metric_minimize: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.model_id = model_id
        self.best_model_arrays: ArrayRecord | None = None
        self._average = SlotOrderFedAvg()
        self._best = BestModel(best_model_metric, best_model_metric_minimize) if best_model_metric else None
        self._validated = ArrayRecord()

    @property
    def flip(self) -> FLIPBase:
        """The client of this process, for a subclass that speaks to it."""
        return FLIP()

    @property
    def best_model_round(self) -> int | None:
        return self._best.round if self._best is not None else None

    @property
    def best_model_metric_value(self) -> float | None:
        return self._best.value if self._best is not None else None

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new model; ``(None, None)`` without replies. Raises ``ValueError`` behind a grid that names no sites."""
        usable = [reply for reply in replies if reply.has_content()]
        if self.weighted_by_key != NUM_EXAMPLES or not usable:
            return super().aggregate_train(server_round, usable)
        arrays, _ = self._average.aggregate_train(server_round, usable)
        return arrays, self.train_metrics_aggr_fn([reply.content for reply in usable], self.weighted_by_key)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._validated = arrays
        return super().configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        usable = [reply for reply in replies if reply.has_content()]
        if self._best is not None and self._best.offer(server_round, [score_of(reply) for reply in usable]):
            self.best_model_arrays = self._validated
        return super().aggregate_evaluate(server_round, usable)
