"""The global models of a run on the FL server's disk: arrays in .npz files, written atomically, known by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_fl.app.arrays import Arrays, read_arrays, replace_arrays, replace_file

GLOBAL_MODEL = "FL_global_model"
BEST_MODEL = "best_FL_global_model"
HISTORY = "history.json"


class ModelFolder:
    """A folder of models and of what the rounds measured. A reader sees an old file or a new one, never half of one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Keep ``arrays`` (parameter → numpy array) under ``name``."""
        replace_arrays(self.path / f"{name}.npz", arrays)

    def inventory(self) -> dict[str, Path]:
        """The models that exist, by name."""
        return {path.stem: path for path in sorted(self.path.glob("*.npz"))}

    def read(self, name: str) -> Arrays | None:
        """One model of the inventory, or None."""
        path = self.inventory().get(name)
        return None if path is None else read_arrays(path)

    def save_history(self, history: Mapping[str, Any]) -> None:
        """Keep what the rounds measured: task → round → slot → metrics."""
        target = self.path / HISTORY
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps(history, indent=2), encoding="utf-8")
        replace_file(temporary, target)

    def history(self) -> dict[str, Any]:
        """What ``save_history`` kept; empty when it kept nothing."""
        path = self.path / HISTORY
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return content if isinstance(content, dict) else {}
