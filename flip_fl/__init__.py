"""flip_fl: what FLIP runs federated learning with.

Everything public is exported lazily (PEP 562), so that ``import flip_fl`` loads no engine, no torch, no pandas.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flip_fl.core.base import FLIPBase
    from flip_fl.core.factory import FLIP
    from flip_fl.errors import FlipError, ResultsUploadError
    from flip_fl.values import JobType, ModelStatus, ResourceType

__version__ = "0.1.0"

_EXPORTS = {
    "FLIP": "flip_fl.core.factory",
    "FLIPBase": "flip_fl.core.base",
    "FlipError": "flip_fl.errors",
    "JobType": "flip_fl.values",
    "ModelStatus": "flip_fl.values",
    "ResourceType": "flip_fl.values",
    "ResultsUploadError": "flip_fl.errors",
}

__all__ = ["FLIP", "FLIPBase", "FlipError", "JobType", "ModelStatus", "ResourceType", "ResultsUploadError"]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'flip_fl' has no attribute {name!r}") from None
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
