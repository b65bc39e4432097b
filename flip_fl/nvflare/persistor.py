"""NVFLARE's persistor over a folder of plain arrays on the FL server's disk."""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnable, ModelLearnableKey, make_model_learnable
from nvflare.app_common.abstract.model_persistor import ModelPersistor
from nvflare.app_common.model_desc import ModelDescriptor

from flip_fl.app import weights
from flip_fl.app.arrays import Arrays
from flip_fl.app.checkpoints import checkpoint_folders, find_checkpoint
from flip_fl.app.config import load_config
from flip_fl.app.isolation.choice import at_server
from flip_fl.app.isolation.rules import Isolation
from flip_fl.app.plan import stages_of
from flip_fl.app.weights import Frame, StartingModel
from flip_fl.nvflare.places import checkpoint_dir, custom_dir
from flip_fl.nvflare.protocol import REPORTER_ID
from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.results.model_folder import GLOBAL_MODEL, ModelFolder
from flip_fl.settings import checkpoint_root, settings_file
from flip_fl.values import SERVER_NAME

MODEL_FORMAT = "numpy"


class ArrayPersistor(ModelPersistor):
    """Keeps models as plain arrays; the researcher's code is only run in a child process (``app.weights``).

    ``folder`` is relative to the server's app folder; APP_CKPT_DIR of the job's ``config/environment.json``, as NVFLARE
    has it, goes before. The initial weights come from ``models.get_model()``.
    """

    def __init__(self, folder: str = "model", reporter_id: str = REPORTER_ID) -> None:
        super().__init__()
        self.folder = folder
        self.reporter_id = reporter_id
        self._frame: Frame | None = None

    @property
    def frame(self) -> Frame:
        """What of the model stays here while the rest of it travels. Raises ``RuntimeError`` before it was loaded."""
        if self._frame is None:
            raise RuntimeError("the starting model is not loaded")
        return self._frame

    def load_model(self, fl_ctx: FLContext) -> ModelLearnable:
        """The starting weights. Raises ``FlipError`` E0205 when the app's model cannot be used, E0210 without the
        checkpoint that SERVER_CHECKPOINT names.
        """
        app_dir = custom_dir(fl_ctx)
        config = load_config(app_dir)
        self.folder_path(fl_ctx)  # one that cannot be used is found before anything is trained
        checkpoint = None
        if config.server_checkpoint is not None:
            checkpoint = find_checkpoint(config.server_checkpoint, self.checkpoint_folders(fl_ctx))
        first = stages_of(config)[0].name
        start = weights.starting_model(app_dir, first, checkpoint=checkpoint, walls=self.walls(fl_ctx))
        self._frame = start.frame
        return make_model_learnable(weights=start.arrays, meta_props={})

    def start_stage(self, stage: str | None, fl_ctx: FLContext) -> StartingModel | None:
        """What a later stage starts from: its own model around the stored one of the stage before.

        None when there is none. Raises ``FlipError`` E0205 when the stage's model does not contain it.
        """
        stored = self.get_model(GLOBAL_MODEL, fl_ctx)
        if stored is None:
            return None
        previous = stored[ModelLearnableKey.WEIGHTS]
        return weights.starting_model(custom_dir(fl_ctx), stage, previous=previous, walls=self.walls(fl_ctx))

    def checkpoint_folders(self, fl_ctx: FLContext) -> tuple[Path, ...]:
        """Where checkpoints of this job may lie."""
        reporter = fl_ctx.get_engine().get_component(self.reporter_id)
        if not isinstance(reporter, FlipReporter):
            return (custom_dir(fl_ctx),)
        workspace = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
        root = checkpoint_root(reporter.settings, settings_file(SERVER_NAME, workspace))
        return checkpoint_folders(custom_dir(fl_ctx), root, reporter.run_model_id)

    def walls(self, fl_ctx: FLContext) -> Isolation:
        """How far the app's model is kept apart here. Raises ``FlipError`` E0561."""
        reporter = fl_ctx.get_engine().get_component(self.reporter_id)
        return at_server(reporter.settings if isinstance(reporter, FlipReporter) else None)

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
        """Where this job's models lie. Raises ``FlipError`` E0303 for an APP_CKPT_DIR that is no plain folder."""
        workspace = fl_ctx.get_engine().get_workspace()
        return Path(workspace.get_app_dir(fl_ctx.get_job_id())) / (checkpoint_dir(fl_ctx) or self.folder)
