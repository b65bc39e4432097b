"""The environment of what flip_fl starts beside the roles: this one, without any setting of FLIP's and any key."""

from __future__ import annotations

import os
from collections.abc import Mapping

from flip_fl.settings import SECRET_MARKS, environment_names


def scrubbed(environment: Mapping[str, str] | None = None, **added: str) -> dict[str, str]:
    """``environment`` (default: this process's) without FLIP settings and without anything named like a secret."""
    source = os.environ if environment is None else environment
    settings = environment_names()
    kept = {
        name: value
        for name, value in source.items()
        if name not in settings
        and not name.startswith(("AWS_", "FLIP_"))
        and not any(mark in name.upper() for mark in SECRET_MARKS)
    }
    return {**kept, **added}
