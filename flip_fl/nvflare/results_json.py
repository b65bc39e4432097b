"""What models scored at the sites, kept where the results bundle takes it from."""

from __future__ import annotations

import math

from nvflare.apis.dxo import DataKind, from_shareable
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.widgets.widget import Widget

from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.privacy.egress import sane_name
from flip_fl.results.evaluation import Evaluation


class ResultsJson(Widget):
    """Keeps the scores of NVFLARE's own evaluation workflows (``cross_site_val/cross_val_results.json`` of the bundle),
    and what our evaluation has found (``evaluation_results/``).
    """

    def __init__(self, persistor_id: str = "persistor") -> None:
        super().__init__()
        self.persistor_id = persistor_id

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != AppEventType.VALIDATION_RESULT_RECEIVED:
            return
        result = fl_ctx.get_prop(AppConstants.VALIDATION_RESULT)
        model, slot = fl_ctx.get_prop(AppConstants.MODEL_OWNER), fl_ctx.get_prop(AppConstants.DATA_CLIENT)
        if not isinstance(result, Shareable) or result.get_return_code() not in (ReturnCode.OK, None) or not model:
            return  # the reporter tells a site's failure
        scores = from_shareable(result)
        persistor = fl_ctx.get_engine().get_component(self.persistor_id)
        if scores.data_kind != DataKind.METRICS or not isinstance(persistor, ArrayPersistor):
            return
        models = persistor.models(fl_ctx)
        history = models.history()
        history.setdefault("cross_site", {}).setdefault(str(model), {})[str(slot)] = {
            name: float(value)
            for name, value in scores.data.items()
            if sane_name(name) and isinstance(value, int | float) and math.isfinite(value)
        }
        models.save_history(history)

    def keep_evaluation(self, found: Evaluation, fl_ctx: FLContext) -> None:
        """Keep what an evaluation has ``found``. Raises ``TypeError`` without our persistor."""
        persistor = fl_ctx.get_engine().get_component(self.persistor_id)
        if not isinstance(persistor, ArrayPersistor):
            raise TypeError(f"{self.persistor_id} is no {ArrayPersistor.__name__}")
        found.save(persistor.models(fl_ctx).path)
