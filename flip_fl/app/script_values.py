"""The metrics that a script returns, in the forms that existing ones have, as plain names and values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flip_fl.app.site import SiteSpec

MAX_DEPTH = 4
_SERVER_MODEL = "SRV_"
_OF_A_TASK = "metrics_"


def unwrapped(values: Mapping[Any, Any], spec: SiteSpec) -> dict[Any, Any]:
    """``values`` without the one name around all of them: a model's (``{"linear": {…}}``) or a task's.

    Where several models are named, those of the one that is evaluated.
    """
    names = [spec.model, f"{_SERVER_MODEL}{spec.model}"] if spec.model else []
    for name in names:
        if isinstance(values.get(name), Mapping):
            return dict(values[name])
    if len(values) == 1:
        ((name, inner),) = values.items()
        if isinstance(name, str) and name.startswith(_OF_A_TASK) and isinstance(inner, Mapping):
            return dict(inner)
    return dict(values)


def flattened(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """``values`` with ``{"f1": {"oedema": 0.5}}`` as ``{"f1/oedema": 0.5}``."""
    return dict(_flat("", values, MAX_DEPTH))


def _flat(prefix: str, values: Mapping[Any, Any], depth: int) -> Iterator[tuple[Any, Any]]:
    for name, value in values.items():
        full = f"{prefix}/{name}" if prefix else name
        if isinstance(value, Mapping) and depth > 1:
            yield from _flat(str(full), value, depth - 1)
        else:
            yield full, value
