"""Flower's side of flip_fl: ``run`` for any strategy, and the two apps of a neutral job. Loaded when they are used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flip_fl.flower.apps import client_app, server_app
    from flip_fl.flower.server import RunFailed, run

_EXPORTS = {
    "RunFailed": "flip_fl.flower.server",
    "client_app": "flip_fl.flower.apps",
    "run": "flip_fl.flower.server",
    "server_app": "flip_fl.flower.apps",
}

__all__ = ["RunFailed", "client_app", "run", "server_app"]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'flip_fl.flower' has no attribute {name!r}") from None
    return getattr(import_module(module), name)
