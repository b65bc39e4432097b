"""The checkpoints that an app names, put where the FL server of a simulated run looks for them."""

from __future__ import annotations

import shutil
from pathlib import Path
from uuid import UUID

from flip_fl.app.checkpoints import find_checkpoint
from flip_fl.app.config import AppConfig


def named_checkpoints(config: AppConfig) -> tuple[str, ...]:
    """The files that a job loads on the server, by name."""
    entries = [str(entry["checkpoint"]) for entry in config.models.values() if "checkpoint" in entry]
    start = [config.server_checkpoint] if config.server_checkpoint is not None else []
    return tuple(dict.fromkeys([*start, *entries]))


def check_start(config: AppConfig) -> None:
    """Raises ``FlipError`` E0210 when the app's folder lacks the file of SERVER_CHECKPOINT.

    Of an evaluation's models some may be missing: the run says so of each.
    """
    if config.server_checkpoint is not None:
        find_checkpoint(config.server_checkpoint, [config.app_dir])


def place_checkpoints(config: AppConfig, root: Path, model_id: UUID) -> None:
    """Copy what the app's folder has of them below ``root``; they never travel in the job."""
    target = root / str(model_id)
    target.mkdir(parents=True, exist_ok=True)
    for name in named_checkpoints(config):
        if (config.app_dir / name).is_file():
            shutil.copyfile(config.app_dir / name, target / name)
