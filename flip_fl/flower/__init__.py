"""Flower's side of flip_fl: ``run`` for any strategy, the two apps of a job, what apps bring. Loaded at its use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flip_fl.flower.apps import client_app, server_app
    from flip_fl.flower.fedavg import FlipFedAvg
    from flip_fl.flower.local_dp import local_dp_mod
    from flip_fl.flower.server import RunFailed, run

_EXPORTS = {
    "FlipFedAvg": "flip_fl.flower.fedavg",
    "RunFailed": "flip_fl.flower.server",
    "client_app": "flip_fl.flower.apps",
    "local_dp_mod": "flip_fl.flower.local_dp",
    "run": "flip_fl.flower.server",
    "server_app": "flip_fl.flower.apps",
}

__all__ = ["FlipFedAvg", "RunFailed", "client_app", "local_dp_mod", "run", "server_app"]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'flip_fl.flower' has no attribute {name!r}") from None
    return getattr(import_module(module), name)
