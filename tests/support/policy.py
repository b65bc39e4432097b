"""A site's policy for tests whose apps leave notes: open but for what a test is about."""

from __future__ import annotations

from pathlib import Path

OPEN = """
[egress]
require_declared = false
min_cohort = 0

[isolation]
write = [{folders}]
"""


def open_policy(settings_dir: Path, *writable: Path) -> Path:
    """A policy beside the settings in ``settings_dir``; apps may write to ``writable``, too."""
    path = settings_dir / "policy.toml"
    path.write_text(OPEN.format(folders=", ".join(f'"{folder}"' for folder in writable)))
    return path
