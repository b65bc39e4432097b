"""Which model at the hub a job reports on: the places where its id may stand, in their order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.errors import FlipError


def first_model_id(given: str, app_dir: Path, further: Mapping[str, object]) -> UUID:
    """The first UUID of: ``given`` (the component's argument), FLIP_MODEL_ID in the app's config.json, ``further``.

    ``further`` is an engine's own places, in their order: what the place is called → what stands there. Raises
    ``FlipError`` E0501 naming every place when none holds one.
    """
    candidates = {
        "the component's argument model_id": given,
        "FLIP_MODEL_ID in config.json": read_object(app_dir / "config.json").get("FLIP_MODEL_ID"),
        **further,
    }
    for value in candidates.values():
        try:
            return UUID(str(value))
        except ValueError:
            continue
    tried = "; ".join(f"{place} {f'is {value!r}' if value else 'is not set'}" for place, value in candidates.items())
    raise FlipError("E0501", problem=tried)


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in ``path``; empty when there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
