"""The house's aggregation as a Flower strategy: float64, slot order, cast back to the dtypes that were sent."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from flip_fl.aggregate.average import Update, weighted_average
from flip_fl.aggregate.best import Score, federated_metrics
from flip_fl.aggregate.optimizers import ServerOptimizer
from flip_fl.flower.protocol import ARRAYS, CONFIG, NUM_EXAMPLES, SERVER_ROUND, reply_slot
from flip_fl.flower.quarantine import records_of

logger = logging.getLogger("flip_fl.flower")


class SlotOrderFedAvg(Strategy):
    """FedAvg with the same aggregator as on every other engine; the site behind a reply is the one that the grid names.

    ``weights``: kit slot → weight; without it sites count by their number of examples. ``optimizer`` is applied to the
    averaged difference (None: the average is the new model). Every site that the grid knows is asked, in training and
    in validation.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, optimizer: ServerOptimizer | None = None) -> None:
        self.weights = dict(weights) if weights else None
        self.optimizer = optimizer
        self._sent = ArrayRecord()

    def summary(self) -> None:
        by = "the weights given" if self.weights else "number of examples"
        logger.info("average in float64 and slot order, weighted by %s", by)
        if self.optimizer is not None:
            logger.info("the averaged difference is applied by %s", self.optimizer.spec)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        self._sent = arrays
        return to_all(server_round, arrays, config, grid, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new model; ``(None, None)`` without replies."""
        usable = [reply for reply in replies if reply.has_content()]
        if not usable:
            return None, None
        updates = [
            Update(
                slot=reply_slot(reply),
                arrays={name: array.numpy() for name, array in _arrays(reply).items()},
                num_examples=examples_of(reply),
            )
            for reply in usable
        ]
        averaged = weighted_average(updates, self.weights)
        sent, self._sent = self._sent, ArrayRecord()
        if self.optimizer is not None:
            averaged = self.optimizer.step({name: array.numpy() for name, array in sent.items()}, averaged)
        return ArrayRecord({name: Array(array) for name, array in averaged.items()}), metrics_of(usable)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return to_all(server_round, arrays, config, grid, MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Each metric's mean over the sites that measured it, weighted by examples; None without replies."""
        usable = [reply for reply in replies if reply.has_content()]
        return metrics_of(usable) if usable else None


def score_of(reply: Message) -> Score:
    """What one site measured, from its reply: the scalars of its metrics."""
    metrics = {
        name: float(value)
        for record in records_of(reply.content, MetricRecord)
        for name, value in record.items()
        if name != NUM_EXAMPLES and isinstance(value, (int, float))
    }
    return Score(reply_slot(reply), examples_of(reply), metrics)


def to_all(server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid, kind: str) -> list[Message]:
    """A message of type ``kind`` with ``arrays`` for every site that ``grid`` knows."""
    return to_each(server_round, arrays, config, grid.get_node_ids(), kind)


def to_each(
    server_round: int, arrays: ArrayRecord, config: ConfigRecord, nodes: Iterable[int], kind: str
) -> list[Message]:
    """A message of type ``kind`` with ``arrays`` for each of ``nodes``."""
    config[SERVER_ROUND] = server_round
    content = RecordDict({ARRAYS: arrays, CONFIG: config})
    return [Message(content=content, message_type=kind, dst_node_id=node) for node in nodes]


def _arrays(reply: Message) -> ArrayRecord:
    (record,) = records_of(reply.content, ArrayRecord)
    return record


def examples_of(reply: Message) -> int:
    """The number of examples behind a reply."""
    (record,) = records_of(reply.content, MetricRecord)
    value = record.get(NUM_EXAMPLES, 0)
    return int(value) if isinstance(value, int | float) else 0


def metrics_of(replies: list[Message]) -> MetricRecord:
    """The means of what the sites measured."""
    scores = [score_of(reply) for reply in replies]
    # Flower weights and adds up by this key wherever the record goes next.
    return MetricRecord({NUM_EXAMPLES: sum(score.num_examples for score in scores), **federated_metrics(scores)})
