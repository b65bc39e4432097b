"""FedProx: a pull towards the global model in each local step.

The term ``mu/2 · ||w - w_global||²`` of T. Li et al., "Federated Optimization in Heterogeneous Networks", MLSys 2020
(arXiv:1812.06127), is added as its gradient ``mu · (w - w_global)`` right before an optimiser's step, so that it is
there once a step however a trainer builds its loss, accumulates or scales gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@contextlib.contextmanager
def proximal(model: torch.nn.Module, mu: float | None) -> Iterator[None]:
    """While the block runs, every torch optimiser that steps on parameters of ``model`` also feels the pull.

    ``mu`` 0 or None: nothing happens. An optimiser that evaluates the loss inside its step (LBFGS) feels it at the
    first evaluation only.
    """
    if not mu:
        yield
        return
    import torch
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    start = {parameter: parameter.detach().clone() for parameter in model.parameters() if parameter.requires_grad}

    def pull(optimizer: Any, *_: Any) -> None:
        with torch.no_grad():
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None and parameter in start:
                        anchor = start[parameter].to(parameter.device)
                        parameter.grad.add_(parameter - anchor, alpha=mu)

    handle = register_optimizer_step_pre_hook(pull)
    try:
        yield
    finally:
        handle.remove()
