"""FedAvg of which the server only ever has the mean: sites send masked numbers, and only their sum is unmasked."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid

from flip_fl.aggregate.average import MAX_EXAMPLES
from flip_fl.aggregate.fixed_point import decoded, length_of, step_of
from flip_fl.aggregate.optimizers import ServerOptimizer
from flip_fl.flower.average import SlotOrderFedAvg, examples_of, metrics_of, to_each
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.npy import NpyError, view
from flip_fl.flower.phase import RoundFailed
from flip_fl.flower.protocol import NUM_EXAMPLES, PARAMS_RECORD, reply_slot
from flip_fl.flower.quarantine import Quarantine, records_of
from flip_fl.flower.secure_exchange import Exchange, begin_exchange, vector_of
from flip_fl.flower.secure_messages import put_secure
from flip_fl.flower.secure_site import MASKED
from flip_fl.values import Task

logger = logging.getLogger("flip_fl.flower")


class SecureAverage(SlotOrderFedAvg):
    """``SlotOrderFedAvg``, weighted by examples, over the masked updates of secure aggregation.

    ``reach`` is the most that training may change a floating-point number; the mean is that of the plain updates but
    for half a step of it (``fixed_point.step_of``).
    """

    def __init__(self, reach: float, optimizer: ServerOptimizer | None = None) -> None:
        super().__init__(None, optimizer)
        self.reach = reach
        self._exchange: Exchange | None = None

    def summary(self) -> None:
        super().summary()
        logger.info("secure aggregation: each site's update is masked; a change is kept to %g", step_of(self.reach) / 2)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Raises ``RoundFailed`` where too few sites are left after the steps before training."""
        if not isinstance(grid, FlipGrid):
            raise RoundFailed("secure aggregation needs the grid of flip_fl.flower.run")
        self._sent = arrays
        exchange = self._exchange = begin_exchange(grid, server_round)
        slots = list(exchange.sealed)
        nodes = [exchange.nodes[slot] for slot in slots]
        messages = to_each(server_round, arrays, config, nodes, MessageType.TRAIN)
        for slot, message in zip(slots, messages, strict=True):
            message.content = message.content.copy()
            put_secure(message.content, exchange.given_to(slot))
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """The new model. Raises ``RoundFailed`` where too few sites are left, or what they tell does not fit."""
        usable = [reply for reply in replies if reply.has_content()]
        exchange, self._exchange = self._exchange, None
        assert exchange is not None
        sent, self._sent = self._sent, ArrayRecord()
        before = {name: array.numpy() for name, array in sent.items()}
        masked = {reply_slot(reply): vector_of(_masked(reply)) for reply in usable}
        total = exchange.sum_of(masked)
        try:
            mean = decoded(before, total, sum(examples_of(reply) for reply in usable), self.reach)
        except ValueError as error:
            raise RoundFailed(f"the sum of round {server_round} cannot be unmasked: {error}") from None
        if self.optimizer is not None:
            mean = self.optimizer.step(before, mean)
        return ArrayRecord({name: Array(array) for name, array in mean.items()}), metrics_of(usable)


class MaskedQuarantine(Quarantine):
    """A quarantine for masked updates: their length, and the number of examples. Of the update nobody can tell more."""

    def __call__(self, sent: Message, reply: Message, task: Task) -> str | None:
        if task is Task.TRAIN and reply.has_content() and PARAMS_RECORD in reply.content:
            return "its update is a plain difference, and the job says SECURE_AGGREGATION"
        return super().__call__(sent, reply, task)

    def _check_arrays(self, sent: Message, returned: ArrayRecord, metrics: MetricRecord) -> str | None:
        examples: Any = metrics[NUM_EXAMPLES]
        if isinstance(examples, bool) or not isinstance(examples, int) or not 1 <= examples <= MAX_EXAMPLES:
            return f"{NUM_EXAMPLES} is not a whole number from 1 to {MAX_EXAMPLES}"
        model = self._read_model(sent)
        if model is None or list(returned) != [MASKED]:
            return "its update is not masked, and the job says SECURE_AGGREGATION"
        try:
            found = view(returned[MASKED], None)
        except NpyError as error:
            return f"its masked update {error}"
        if found.dtype != np.uint64 or found.shape != (length_of(model),):
            return "its masked update does not have the numbers of the model"
        return None


def _masked(reply: Message) -> Array:
    (record,) = records_of(reply.content, ArrayRecord)
    return record[MASKED]
