"""What existing apps import as ``flip``. Each name is one that flip_fl has elsewhere; loaded when it is used."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = ("FLIP", "FLIPBase", "ResultsUploadError")

__all__ = ["FLIP", "FLIPBase", "ResultsUploadError"]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'flip_fl.compat' has no attribute {name!r}")
    return getattr(import_module("flip_fl"), name)
