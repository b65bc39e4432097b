"""A metric's name that carries its axis: ``<label>[@<x_label>][.x_<value>]``."""

from __future__ import annotations

import re

_KEY = re.compile(r"(?P<label>.+?)(?:@(?P<axis>.+?))?(?:\.x_(?P<x>[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?))?", re.DOTALL)


def metric_key(key: str) -> tuple[str, str | None, float | None]:
    """Label, axis and x-value of a metric's key; a key that does not follow the grammar is all label."""
    match = _KEY.fullmatch(key)
    if match is None:
        return key, None, None
    return match["label"], match["axis"], None if match["x"] is None else float(match["x"])
