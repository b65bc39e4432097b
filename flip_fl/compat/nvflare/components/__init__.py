"""``flip.nvflare.components``: the filters that FLIP's FL API puts into a job that trains a part of a model."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "KeepOnlyVars",
    "ReconstructFullModel",
    "ReconstructFullModelForEval",
    "TrimBroadcastVars",
    "TrimEvalBroadcastVars",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'flip_fl.compat.nvflare.components' has no attribute {name!r}")
    return getattr(import_module("flip_fl.nvflare.filters"), name)
