"""Reporting to the hub: never blocks, never loses, never doubles. Exported lazily, so that parts stay cheap."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flip_fl.reporting.lifecycle import Lifecycle
    from flip_fl.reporting.outbox import Outbox
    from flip_fl.reporting.reporter import Reporter
    from flip_fl.reporting.session import Reporting, SyncResult, open_reporting, sync

_EXPORTS = {
    "Lifecycle": "flip_fl.reporting.lifecycle",
    "Outbox": "flip_fl.reporting.outbox",
    "Reporter": "flip_fl.reporting.reporter",
    "Reporting": "flip_fl.reporting.session",
    "SyncResult": "flip_fl.reporting.session",
    "open_reporting": "flip_fl.reporting.session",
    "sync": "flip_fl.reporting.session",
}

__all__ = ["Lifecycle", "Outbox", "Reporter", "Reporting", "SyncResult", "open_reporting", "sync"]


def __getattr__(name: str) -> Any:
    try:
        module = _EXPORTS[name]
    except KeyError:
        raise AttributeError(f"module 'flip_fl.reporting' has no attribute {name!r}") from None
    return getattr(import_module(module), name)
