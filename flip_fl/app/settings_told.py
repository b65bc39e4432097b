"""What the hub is told of a run's settings, so that two runs can be compared: the app's config.json, flat, bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

# The hub holds no SQL and no key. A name that only sounds like one costs a line of a table.
_KEPT_BACK = re.compile(r"query|sql|passw|secret|token|credential|api_?key|private_?key", re.IGNORECASE)
_MAX_NAME, _MAX_VALUE = 80, 160
# Of an event's details, with room for what stands beside it.
_MAX_BYTES = 6_000


def settings_told(config: Mapping[str, Any], engine: str, package: str) -> dict[str, str]:
    """``config`` as names and texts, ``engine`` with its package's version first; what does not fit is counted."""
    try:
        found = {"Engine": f"{engine} {version(package)}"}
    except PackageNotFoundError:
        found = {"Engine": engine}
    room, left = _MAX_BYTES, 0
    for name, text in _flat(config):
        size = len(json.dumps({name: text}))
        if size > room:
            left += 1
            continue
        room -= size
        found[name] = text
    if left:
        found["…"] = f"{left} more settings"
    return found


def _flat(config: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in config.items():
        name = f"{before}{key}"
        if _KEPT_BACK.search(name):
            continue
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            yield name[:_MAX_NAME], text if len(text) <= _MAX_VALUE else text[: _MAX_VALUE - 1] + "…"
