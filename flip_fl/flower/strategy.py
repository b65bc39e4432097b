"""A delegating strategy: any Flower strategy, the user's own included, watched round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.aggregate.average import cast

HOOKS = ("configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate")

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


class RoundWatcher(Protocol):
    """Who is told where a run is. Rounds count from 1, over a restart too."""

    def train_begins(self, number: int) -> None:
        """The strategy is about to choose the clients that train in this round."""

    def returned(self, number: int, sent: ArrayRecord) -> None:
        """The sites' results are there, the strategy may take them to pieces; ``sent`` is the round's old model."""

    def aggregated(self, number: int, arrays: ArrayRecord | None) -> None:
        """The round's new global model, in the dtypes of the one before; None when the strategy gave none."""

    def validation_begins(self, number: int) -> None:
        """The strategy is about to choose the clients that validate the round's model."""

    def scored(self, number: int, arrays: ArrayRecord) -> None:
        """The round is over; ``arrays`` is its global model."""


class ObservedStrategy(Strategy):
    """Does what ``inner`` does, and tells ``watcher``.

    Aggregated arrays get back the dtypes of the arrays that were sent: Flower's strategies return whole-number buffers,
    and some of them all weights, as float64. ``offset`` rounds are done already: ``inner`` and the clients see the next
    ones. What ``inner`` has beside the hooks is reachable here, too.
    """

    def __init__(self, inner: Strategy, watcher: RoundWatcher, offset: int = 0) -> None:
        self._inner = inner
        self._watcher = watcher
        self._offset = offset
        self._arrays = ArrayRecord()
        # Taken now: `start` may put this object's hooks in the place of inner's own.
        self._own: dict[str, Any] = {name: getattr(inner, name) for name in HOOKS}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __repr__(self) -> str:
        return repr(self._inner)

    def summary(self) -> None:
        self._inner.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        number = server_round + self._offset
        self._arrays = arrays
        self._watcher.train_begins(number)
        # HttpGrid iterates it twice.
        return list(self._own["configure_train"](number, arrays, config, grid))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        number = server_round + self._offset
        self._watcher.returned(number, self._arrays)
        arrays, metrics = self._own["aggregate_train"](number, list(replies))
        if arrays is not None:
            arrays = as_sent(arrays, self._arrays)
            self._arrays = arrays
        self._watcher.aggregated(number, arrays)
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        number = server_round + self._offset
        self._watcher.validation_begins(number)
        return list(self._own["configure_evaluate"](number, arrays, config, grid))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        number = server_round + self._offset
        metrics: MetricRecord | None = self._own["aggregate_evaluate"](number, list(replies))
        self._watcher.scored(number, self._arrays)
        return metrics

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run ``num_rounds`` further rounds, by ``inner.start`` where it has its own; see Flower's ``Strategy``."""
        self._arrays = initial_arrays
        shifted = None
        if evaluate_fn is not None:
            own_fn = evaluate_fn

            def shifted(number: int, arrays: ArrayRecord) -> MetricRecord | None:
                return own_fn(number + self._offset, arrays)

        # By name: a strategy's own `start` may have fewer parameters and take the others as they come.
        given: dict[str, Any] = {
            "grid": grid,
            "initial_arrays": initial_arrays,
            "num_rounds": num_rounds,
            "timeout": timeout,
            "train_config": train_config,
            "evaluate_config": evaluate_config,
            "evaluate_fn": shifted,
        }
        if type(self._inner).start is Strategy.start:
            return super().start(**given)
        # A strategy with a loop of its own calls its own hooks: they are ours while the loop runs.
        for name in HOOKS:
            setattr(self._inner, name, getattr(self, name))
        try:
            return self._inner.start(**given)
        finally:
            for name in HOOKS:
                delattr(self._inner, name)


def as_sent(arrays: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """``arrays`` in the dtypes of ``sent``, whole numbers rounded; names that ``sent`` has not stay as they are."""
    restored = ArrayRecord()
    for name, array in arrays.items():
        like = sent.get(name)
        if like is None or array.dtype == like.dtype:
            restored[name] = array
        else:
            restored[name] = Array(cast(array.numpy(), like.numpy().dtype))
    return restored
