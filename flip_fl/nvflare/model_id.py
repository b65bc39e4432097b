"""Where NVFLARE keeps the id of the model that a job reports on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.app.model_id import first_model_id, read_object


def find_model_id(given: str, app_dir: Path, job_meta: Path, job_name: str = "") -> UUID:
    """The first UUID of: the component's argument, ``FLIP_MODEL_ID`` in config.json, ``custom_props.model_id``
    in meta.json, the job's name. Raises ``FlipError`` E0501 naming all four when none is one.
    """
    meta = read_object(job_meta)
    custom = meta.get("custom_props")
    further = {
        "custom_props.model_id in meta.json": custom.get("model_id") if isinstance(custom, dict) else None,
        "the job's name": job_name or meta.get("name"),
    }
    return first_model_id(given, app_dir, further)


def model_of(meta: Mapping[str, Any]) -> UUID | None:
    """The model that the server's own meta data of a job name; None for a job that reports on none."""
    custom = meta.get("custom_props")
    for value in (custom.get("model_id") if isinstance(custom, dict) else None, meta.get("name")):
        try:
            return UUID(str(value))
        except ValueError:
            continue
    return None
