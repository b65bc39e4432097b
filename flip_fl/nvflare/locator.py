"""Models that exist on the FL server, as NVFLARE's evaluation workflows and ours ask for them."""

from __future__ import annotations

from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.abstract.model import ModelLearnableKey
from nvflare.app_common.abstract.model_locator import ModelLocator

from flip_fl.app.config import load_config
from flip_fl.app.evaluation import NotEvaluated, load_model
from flip_fl.app.weights import StartingModel
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.places import custom_dir


class StoreLocator(ModelLocator):
    """What this job has trained so far (jobs of one stage): the persistor's models, of each the part that travels.

    For NVFLARE's own ``GlobalModelEval`` and ``CrossSiteModelEval``, put behind our controller.
    """

    def __init__(self, persistor_id: str = "persistor") -> None:
        super().__init__()
        self.persistor_id = persistor_id

    def get_model_names(self, fl_ctx: FLContext) -> list[str]:
        return list(_persistor(self.persistor_id, fl_ctx).get_model_inventory(fl_ctx))

    def locate_model(self, model_name: str, fl_ctx: FLContext) -> DXO | None:
        persistor = _persistor(self.persistor_id, fl_ctx)
        stored = persistor.get_model(model_name, fl_ctx)
        if stored is None:
            return None
        whole = stored[ModelLearnableKey.WEIGHTS]
        return DXO(DataKind.WEIGHTS, data={name: whole[name] for name in persistor.frame.travelling})


class CheckpointLocator(ModelLocator):
    """The models that the app's config.json names (``models``), with the weights of their checkpoints."""

    def __init__(self, persistor_id: str = "persistor") -> None:
        super().__init__()
        self.persistor_id = persistor_id

    def get_model_names(self, fl_ctx: FLContext) -> list[str]:
        return list(load_config(custom_dir(fl_ctx)).models)

    def locate_model(self, model_name: str, fl_ctx: FLContext) -> DXO | None:
        try:
            return DXO(DataKind.WEIGHTS, data=self.load(model_name, fl_ctx).sent)
        except NotEvaluated as problem:
            self.log_error(fl_ctx, f"model '{model_name}' is not evaluated: {problem}")
            return None

    def load(self, name: str, fl_ctx: FLContext) -> StartingModel:
        """The model called ``name``. Raises ``NotEvaluated``, and ``FlipError`` as ``load_config`` does."""
        persistor = _persistor(self.persistor_id, fl_ctx)
        folders, walls = persistor.checkpoint_folders(fl_ctx), persistor.walls(fl_ctx)
        return load_model(load_config(custom_dir(fl_ctx)), name, folders, walls=walls)


def _persistor(name: str, fl_ctx: FLContext) -> ArrayPersistor:
    found = fl_ctx.get_engine().get_component(name)
    if not isinstance(found, ArrayPersistor):
        raise TypeError(f"{name} is no {ArrayPersistor.__name__}")
    return found
