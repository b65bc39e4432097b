"""Which part of a model travels between server and sites, and which stays where it is.

AGGREGATE_ONLY_REGEX lets only the parameters that it finds travel (head-only training); with FEDBN the batch-norm
layers stay at each site (X. Li et al., "FedBN", ICLR 2021, arXiv:2102.07623).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flip_fl.app.config import AppConfig
from flip_fl.app.faults import AppError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Parts:
    """Names of a model's ``state_dict()``, each in its order.

    ``travelling`` goes to the sites and back; ``local`` is each site's own and lasts from round to round; the
    ``frozen`` rest is what ``get_model()`` made of it, the same everywhere and in every round. ``trainable`` are the
    parameters among all of them, as opposed to buffers.
    """

    travelling: tuple[str, ...]
    local: tuple[str, ...]
    frozen: tuple[str, ...]
    trainable: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether all of the model travels."""
        return not self.local and not self.frozen


def parts_of(model: torch.nn.Module, config: AppConfig) -> Parts:
    """The parts of ``model``. Raises ``AppError`` when nothing is left to travel."""
    names = list(model.state_dict())
    norms = _batch_norms(model) if config.fedbn else frozenset()
    pattern = re.compile(config.aggregate_only_regex) if config.aggregate_only_regex else None
    chosen = [name for name in names if pattern is None or pattern.search(name)]
    travelling = tuple(name for name in chosen if name not in norms)
    if not travelling:
        keys = " and ".join(key for key, given in (("AGGREGATE_ONLY_REGEX", pattern), ("FEDBN", config.fedbn)) if given)
        raise AppError(f"{keys or 'the model'} leaves no parameter that travels; the model has {', '.join(names[:5])}")
    local = tuple(name for name in names if name in norms)
    kept = {*travelling, *local}
    own = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    return Parts(
        travelling=travelling,
        local=local,
        frozen=tuple(name for name in names if name not in kept),
        trainable=tuple(name for name in names if name in own),
    )


def freeze(model: torch.nn.Module, parts: Parts) -> None:
    """Keep an optimiser from moving what is ``frozen``: its parameters get no gradient."""
    frozen = frozenset(parts.frozen)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in frozen:
            parameter.requires_grad_(False)


def merged(base: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with the arrays of ``part`` in their places, in the order of ``base``."""
    return {name: part.get(name, array) for name, array in base.items()}


def _batch_norms(model: torch.nn.Module) -> frozenset[str]:
    from torch.nn.modules.batchnorm import _BatchNorm

    return frozenset(
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        if isinstance(module, _BatchNorm)
        for name in module.state_dict()
    )
