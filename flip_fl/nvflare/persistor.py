"""The global model on the FL server's disk: arrays in .npz files, written atomically, known by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.model_desc import ModelDescriptor

from flip_fl.app import weights
from flip_fl.app.arrays import Arrays, read_arrays, write_arrays

GLOBAL_MODEL = "FL_global_model"
BEST_MODEL = "best_FL_global_model"
HISTORY = "history.json"
MODEL_FORMAT = "numpy"


class ArrayPersistor(ModelPersistor):
    """Keeps models as plain arrays; the researcher's code is only run in a child process (``app.weights``).

    ``folder`` is relative to the server's app folder. The initial weights come from ``models.get_model()``.
    """

    def __init__(self, folder: str = "model") -> None:
        super().__init__()
        self.folder = folder

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """The starting weights. Raises ``FlipError`` E0205 when the app's model cannot be used."""
        arrays = weights.initial_arrays(custom_dir(fl_ctx))
        return make_model_learnable(weights=arrays, meta_props={})

    def save_model(self, model: ModelLearnable, fl_ctx: FLContext) -> None:
        self.save_as(GLOBAL_MODEL, model[ModelLearnableKey.WEIGHTS], fl_ctx)

    def save_as(self, name: str, arrays: Arrays, fl_ctx: FLContext) -> None:
        """Write ``arrays`` under ``name`` so that a reader sees the old file or the new one, never half of it."""
        target = self.folder_path(fl_ctx) / f"{name}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        write_arrays(temporary, arrays)
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(target)

    def get_model_inventory(self, fl_ctx: FLContext) -> dict[str, ModelDescriptor]:
        """The models that exist, by name."""
        return {
            path.stem: ModelDescriptor(name=path.stem, location=str(path), model_format=MODEL_FORMAT, props={})
            for path in sorted(self.folder_path(fl_ctx).glob("*.npz"))
        }

    def get_model(self, model_file: str, fl_ctx: FLContext) -> ModelLearnable | None:
        """One model of the inventory, or None."""
        descriptor = self.get_model_inventory(fl_ctx).get(model_file)
        if descriptor is None:
            return None
        return make_model_learnable(weights=read_arrays(Path(descriptor.location)), meta_props={})

    def save_history(self, history: dict[str, Any], fl_ctx: FLContext) -> None:
        """Keep what the rounds measured beside the models (JSON, atomically)."""
        target = self.folder_path(fl_ctx) / HISTORY
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(".tmp")
        temporary.write_text(json.dumps(history, indent=2), encoding="utf-8")
        temporary.replace(target)

    def history(self, fl_ctx: FLContext) -> dict[str, Any]:
        """What ``save_history`` kept; empty when it kept nothing."""
        path = self.folder_path(fl_ctx) / HISTORY
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return content if isinstance(content, dict) else {}

    def folder_path(self, fl_ctx: FLContext) -> Path:
        """Where this job's models lie."""
        workspace = fl_ctx.get_engine().get_workspace()
        return Path(workspace.get_app_dir(fl_ctx.get_job_id())) / self.folder


def custom_dir(fl_ctx: FLContext) -> Path:
    """The folder of this job that holds the researcher's app."""
    return Path(fl_ctx.get_engine().get_workspace().get_app_custom_dir(fl_ctx.get_job_id()))
