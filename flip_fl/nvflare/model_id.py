"""Which model at the hub a job reports on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.errors import FlipError


def find_model_id(given: str, app_dir: Path, job_meta: Path, job_name: str = "") -> UUID:
    """The first UUID of: the component's argument, ``FLIP_MODEL_ID`` in config.json, ``custom_props.model_id``
    in meta.json, the job's name. Raises ``FlipError`` E0501 naming all four when none is one.
    """
    meta = _read(job_meta)
    custom = meta.get("custom_props")
    candidates = {
        "the component's argument model_id": given,
        "FLIP_MODEL_ID in config.json": _read(app_dir / "config.json").get("FLIP_MODEL_ID"),
        "custom_props.model_id in meta.json": custom.get("model_id") if isinstance(custom, dict) else None,
        "the job's name": job_name or meta.get("name"),
    }
    for value in candidates.values():
        try:
            return UUID(str(value))
        except ValueError:
            continue
    tried = "; ".join(f"{place} {f'is {value!r}' if value else 'is not set'}" for place, value in candidates.items())
    raise FlipError("E0501", problem=tried)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
