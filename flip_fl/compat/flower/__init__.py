"""``flip.flower``: what existing Flower packages import. Loaded when it is used: nothing here needs flwr before."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["FlipFedAvg"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flip_fl.compat.flower' has no attribute {name!r}")
    return getattr(import_module("flip_fl.flower"), name)
