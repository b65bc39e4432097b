"""A job that evaluates models which exist already: each in a round of its own, at every site; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_event_type import AppEventType

from flip_fl.app.checks import check_models
from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.evaluation import EXECUTION_RESULT_ERROR, NO_REPLY, NotEvaluated, load_model, not_evaluated
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.places import custom_dir
from flip_fl.nvflare.protocol import REPORTER_ID, TaskNote
from flip_fl.nvflare.tasks import RoundFailed, SiteTasks, examples_of
from flip_fl.results.evaluation import Evaluation, checked
from flip_fl.values import Task, natural_key


class FlipEvaluation(SiteTasks):
    """Sends every model of config.json (``models``) to every site, one after another; further, see ``SiteTasks``.

    A site that fails, and a model that is missing, are failures of their own in the results; only an evaluation of
    which nothing came ends the run. ``min_clients`` sites must be there at the start.
    """

    def __init__(
        self,
        min_clients: int = 0,
        persistor_id: str = "persistor",
        reporter_id: str = REPORTER_ID,
        start_timeout_s: int = 600,
        task_timeout_s: int = 86_400,
    ) -> None:
        super().__init__(
            total=1,
            min_clients=min_clients,
            persistor_id=persistor_id,
            reporter_id=reporter_id,
            start_timeout_s=start_timeout_s,
            task_timeout_s=task_timeout_s,
        )

    def run(self) -> None:
        config = load_config(custom_dir(self.fl_ctx))
        check_models(config)
        persistor = self.persistor
        if not isinstance(persistor, ArrayPersistor):
            raise RoundFailed(f"an evaluation needs {ArrayPersistor.__name__} as its {self.persistor_id}")
        slots = self._await_sites()
        if slots is None:
            return
        self.total = len(config.models)
        self._reporter().reporting.lifecycle.task = Task.EVALUATE.value
        self.event(AppEventType.INITIAL_MODEL_LOADED)
        everybody = sorted((client.name for client in self.engine.get_clients()), key=natural_key)
        found = Evaluation(tuple(config.models), tuple(everybody))
        for number, name in enumerate(found.models, start=1):
            if not self._evaluate(config, name, number, slots, found, persistor):
                return
        if found.problem is not None:
            raise RoundFailed(found.problem)
        if found.note is not None:
            self._reporter().reporting.reporter.log(found.note, success=False)
        found.save(persistor.models(self.fl_ctx).path)

    def _evaluate(
        self,
        config: AppConfig,
        name: str,
        number: int,
        slots: Sequence[str],
        found: Evaluation,
        persistor: ArrayPersistor,
    ) -> bool:
        """One model at every site; False when the run was aborted meanwhile."""
        self._set_round(number)
        reporter = self._reporter()
        reporter.stage = name
        self.event(AppEventType.ROUND_STARTED)
        try:
            start = load_model(config, name, persistor.checkpoint_folders(self.fl_ctx))
        except NotEvaluated as problem:
            text = not_evaluated(name, str(config.models[name]["checkpoint"]), problem)
            reporter.reporting.reporter.failure(None, text, global_round=number)
            found.failed(name, found.sites, problem.code, str(problem))
            reporter.close_round(0)
            return True
        replies = self._ask(Task.EVALUATE, start.sent, list(slots), number, TaskNote(model=name))
        if replies is None:
            return False
        for slot in found.sites:
            reply = replies.get(slot)
            if reply is None:
                absent = "it did not ask for work" if slot not in slots else self._why(slot)
                found.failed(name, [slot], self._codes.get(slot, NO_REPLY), absent)
            else:
                self._take(name, slot, reply, found)
        reporter.close_round(len(found.sites))
        return True

    def _take(self, name: str, slot: str, reply: FLModel, found: Evaluation) -> None:
        try:
            if not isinstance(reply.metrics, dict):
                raise NotEvaluated(EXECUTION_RESULT_ERROR, "it holds no metrics")
            found.returned(name, slot, checked(examples_of(reply), reply.metrics))
        except NotEvaluated as problem:
            self._reporter().rejected(slot, str(problem))
            found.failed(name, [slot], problem.code, f"result rejected: {problem}")
