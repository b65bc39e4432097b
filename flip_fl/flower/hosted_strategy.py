"""A strategy that lives in its ServerApp's process, as the server sees it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.flower.hosted_peer import Peer
from flip_fl.flower.strategy import HOOKS, EvaluateFn

# What the server asks the other process for.
HOOK, LOOP, EVALUATE_FN, SUMMARY = "strategy hook", "strategy loop", "evaluate_fn", "strategy summary"
CHANGED, RESTORE, UNKEPT = "state changed", "state restore", "state unkept"
UNSATISFIABLE, BEGIN_STAGE = "unsatisfiable", "begin stage"


class RemoteStrategy(Strategy):
    """Its hooks, called over there. The grid that they get is the one over there."""

    def __init__(self, peer: Peer, shown: str) -> None:
        self._peer = peer
        self._shown = shown

    def __repr__(self) -> str:
        return self._shown

    def summary(self) -> None:
        self._peer.call(SUMMARY)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return _messages(self._hook("configure_train", server_round, arrays, config))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        arrays, metrics = self._hook("aggregate_train", server_round, list(replies))
        return _of(ArrayRecord, arrays), _of(MetricRecord, metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        return _messages(self._hook("configure_evaluate", server_round, arrays, config))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        metrics: MetricRecord | None = _of(MetricRecord, self._hook("aggregate_evaluate", server_round, list(replies)))
        return metrics

    def _hook(self, name: str, *arguments: Any) -> Any:
        return self._peer.call(HOOK, name, *arguments)


class RemoteLoop(RemoteStrategy):
    """One whose class has a ``start`` of its own: that loop runs over there, and asks here for each hook."""

    def start(self, *arguments: Any, **given: Any) -> Result:
        """Run that loop. What it is given has the names of Flower's own ``start``, as ``ObservedStrategy`` gives it."""
        self._grid: Grid = given.pop("grid")
        self._evaluate_fn: EvaluateFn | None = given.pop("evaluate_fn")
        result = self._peer.call(LOOP, given, self._evaluate_fn is not None)
        return result if isinstance(result, Result) else Result()

    def hook(self, name: str, *arguments: Any) -> Any:
        """What the loop asks for: the hook that stands here while it runs."""
        if name not in HOOKS:
            raise LookupError(f"a strategy has no hook {name!r:.40}")
        given = (*arguments, self._grid) if name.startswith("configure") else arguments
        return getattr(self, name)(*given)

    def evaluate(self, number: int, arrays: ArrayRecord) -> MetricRecord | None:
        """What the loop asks for between rounds."""
        return None if self._evaluate_fn is None else self._evaluate_fn(number, arrays)


class RemoteState:
    """What it has learnt: a ``KeptState``."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    def changed(self) -> Mapping[str, Any]:
        return dict(self._peer.call(CHANGED))

    def restore(self, state: Mapping[str, Any]) -> None:
        self._peer.call(RESTORE, dict(state))

    def unkept(self) -> list[str]:
        return [str(each) for each in self._peer.call(UNKEPT)]


class RemoteHandling:
    """A ``Handling``. ``facts`` are what the other process says of its strategy."""

    def __init__(self, peer: Peer, facts: Mapping[str, Any]) -> None:
        self._peer = peer
        self.strategy = (RemoteLoop if facts["loop"] else RemoteStrategy)(peer, str(facts["repr"]))
        self.state = RemoteState(peer)
        self.name = str(facts["name"])
        self.weight_key = str(facts["weight_key"])
        self.noises = bool(facts["noises"])

    def unsatisfiable(self, sites: int) -> str | None:
        problem = self._peer.call(UNSATISFIABLE, sites)
        return None if problem is None else str(problem)

    def begin_stage(self, trainable: frozenset[str], *, anew: bool) -> None:
        self._peer.call(BEGIN_STAGE, sorted(trainable), anew)


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list) or not all(isinstance(each, Message) for each in value):
        raise TypeError("the strategy did not give a list of messages")
    return value


def _of(kind: type[Any], value: Any) -> Any:
    if value is not None and not isinstance(value, kind):
        raise TypeError(f"the strategy gave a {type(value).__name__} where a {kind.__name__} was due")
    return value
