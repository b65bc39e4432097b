"""NVFLARE's persistor over a folder of plain arrays on the FL server's disk."""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.model_desc import ModelDescriptor

from flip_fl.app import weights
from flip_fl.app.arrays import Arrays
from flip_fl.results.model_folder import GLOBAL_MODEL, ModelFolder

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
        """Keep ``arrays`` under ``name`` beside the other models."""
        self.models(fl_ctx).save(name, arrays)

    def get_model_inventory(self, fl_ctx: FLContext) -> dict[str, ModelDescriptor]:
        """The models that exist, by name."""
        return {
            name: ModelDescriptor(name=name, location=str(path), model_format=MODEL_FORMAT, props={})
            for name, path in self.models(fl_ctx).inventory().items()
        }

    def get_model(self, model_file: str, fl_ctx: FLContext) -> ModelLearnable | None:
        """One model of the inventory, or None."""
        arrays = self.models(fl_ctx).read(model_file)
        return None if arrays is None else make_model_learnable(weights=arrays, meta_props={})

    def models(self, fl_ctx: FLContext) -> ModelFolder:
        """This job's models and what its rounds measured."""
        return ModelFolder(self.folder_path(fl_ctx))

    def folder_path(self, fl_ctx: FLContext) -> Path:
        """Where this job's models lie."""
        workspace = fl_ctx.get_engine().get_workspace()
        return Path(workspace.get_app_dir(fl_ctx.get_job_id())) / self.folder


def custom_dir(fl_ctx: FLContext) -> Path:
    """The folder of this job that holds the researcher's app."""
    return Path(fl_ctx.get_engine().get_workspace().get_app_custom_dir(fl_ctx.get_job_id()))
