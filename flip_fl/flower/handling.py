"""What a run asks of a strategy beside its four hooks: its name, what it has learnt, whether it can work at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from flwr.serverapp.strategy import Strategy
from flwr.serverapp.strategy.dp_adaptive_clipping import DifferentialPrivacyAdaptiveBase
from flwr.serverapp.strategy.dp_fixed_clipping import DifferentialPrivacyFixedClippingBase

from flip_fl.aggregate.optimizers import ServerOptimizer
from flip_fl.flower.checkpoint import StrategyState
from flip_fl.flower.protocol import NUM_EXAMPLES


class KeptState(Protocol):
    """What a strategy has learnt since it was made, for a checkpoint: see ``StrategyState``."""

    def changed(self) -> Mapping[str, Any]: ...

    def restore(self, state: Mapping[str, Any]) -> None: ...

    def unkept(self) -> list[str]: ...


class Handling(Protocol):
    """A strategy, wherever it is."""

    @property
    def strategy(self) -> Strategy:
        """Its hooks."""

    @property
    def state(self) -> KeptState: ...

    @property
    def name(self) -> str:
        """The class's qualified name."""

    @property
    def weight_key(self) -> str:
        """The metric by which it weights its clients."""

    @property
    def noises(self) -> bool:
        """Whether it hides the single site: it adds noise to what the sites returned (central differential privacy)."""

    def unsatisfiable(self, sites: int) -> str | None:
        """Why it would wait for ever with so many sites, or None."""

    def begin_stage(self, trainable: frozenset[str], *, anew: bool) -> None:
        """A stage's rounds follow: which parameters optimisers move; ``anew``: none of the stage is done yet."""


class DirectHandling:
    """A strategy in this process."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.state = StrategyState(strategy)

    @property
    def name(self) -> str:
        return type(self.strategy).__qualname__

    @property
    def weight_key(self) -> str:
        return weight_key(self.strategy)

    @property
    def noises(self) -> bool:
        return noises(self.strategy)

    def unsatisfiable(self, sites: int) -> str | None:
        return unsatisfiable(self.strategy, sites)

    def begin_stage(self, trainable: frozenset[str], *, anew: bool) -> None:
        optimizer = getattr(self.strategy, "optimizer", None)
        if isinstance(optimizer, ServerOptimizer):
            optimizer.trainable = trainable
            if anew:
                optimizer.forget()


def weight_key(strategy: Strategy) -> str:
    """The metric by which ``strategy``, or the one that it wraps, weights its clients."""
    key = getattr(strategy, "weighted_by_key", None)
    inner = getattr(strategy, "strategy", None)
    if isinstance(key, str):
        return key
    return weight_key(inner) if isinstance(inner, Strategy) else NUM_EXAMPLES


def noises(strategy: Strategy) -> bool:
    """Whether ``strategy``, or one that it wraps, is one of Flower's with differential privacy."""
    inner = getattr(strategy, "strategy", None)
    private = DifferentialPrivacyFixedClippingBase | DifferentialPrivacyAdaptiveBase
    return isinstance(strategy, private) or (isinstance(inner, Strategy) and noises(inner))


def unsatisfiable(strategy: Strategy, sites: int) -> str | None:
    """Why ``strategy`` would wait for ever with so many sites, or None: Flower's own wait for more has no end."""
    for name in ("min_available_nodes", "min_train_nodes", "min_evaluate_nodes"):
        wanted = getattr(strategy, name, 0)
        if isinstance(wanted, int) and wanted > sites:
            kind = type(strategy).__name__
            return f"{kind} waits for {wanted} sites and there are {sites}: give it {name}={sites}"
    inner = getattr(strategy, "strategy", None)
    return unsatisfiable(inner, sites) if isinstance(inner, Strategy) else None
