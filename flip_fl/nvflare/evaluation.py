"""A job that evaluates models which exist already: each in a round of its own, at every site; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_event_type import AppEventType

from flip_fl.aggregate.best import Score
from flip_fl.app.checks import check_models
from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.evaluation import EXECUTION_RESULT_ERROR, NO_REPLY, NotEvaluated, not_evaluated
from flip_fl.nvflare.aggregator import SlotOrderAggregator
from flip_fl.nvflare.locator import CheckpointLocator
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.places import custom_dir
from flip_fl.nvflare.protocol import REPORTER_ID, TaskNote
from flip_fl.nvflare.results_json import ResultsJson
from flip_fl.nvflare.tasks import RoundFailed, SiteTasks, examples_of
from flip_fl.results.evaluation import Evaluation, checked
from flip_fl.values import Task, natural_key


class FlipEvaluation(SiteTasks):
    """Sends every model of config.json (``models``) to every site, one after another; further, see ``SiteTasks``.

    A site that fails, and a model that is missing, are failures of their own in the results; only an evaluation of
    which nothing came ends the run. ``min_clients`` sites must be there at the start. Each metric's mean over the
    sites, as the aggregator weights them, is in the server's log.
    """

    def __init__(
        self,
        min_clients: int = 0,
        persistor_id: str = "persistor",
        reporter_id: str = REPORTER_ID,
        start_timeout_s: int = 600,
        task_timeout_s: int = 86_400,
        model_locator_id: str = "model_locator",
        json_generator_id: str = "json_generator",
        aggregator_id: str = "aggregator",
    ) -> None:
        super().__init__(
            total=1,
            min_clients=min_clients,
            persistor_id=persistor_id,
            reporter_id=reporter_id,
            start_timeout_s=start_timeout_s,
            task_timeout_s=task_timeout_s,
        )
        self.model_locator_id = model_locator_id
        self.json_generator_id = json_generator_id
        self.aggregator_id = aggregator_id

    def run(self) -> None:
        config = load_config(custom_dir(self.fl_ctx))
        check_models(config)
        if not isinstance(self.persistor, ArrayPersistor):
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
            if not self._evaluate(config, name, number, slots, found):
                return
        if found.problem is not None:
            raise RoundFailed(found.problem)
        if found.note is not None:
            self._reporter().reporting.reporter.log(found.note, success=False)
        self._results_json().keep_evaluation(found, self.fl_ctx)

    def _evaluate(
        self,
        config: AppConfig,
        name: str,
        number: int,
        slots: Sequence[str],
        found: Evaluation,
    ) -> bool:
        """One model at every site; False when the run was aborted meanwhile."""
        self._set_round(number)
        reporter = self._reporter()
        reporter.stage = name
        self.event(AppEventType.ROUND_STARTED)
        try:
            start = self._locator().load(name, self.fl_ctx)
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
        self._log_means(name, replies)
        return True

    def _locator(self) -> CheckpointLocator:
        found = self.get_component(self.model_locator_id)
        return found if isinstance(found, CheckpointLocator) else CheckpointLocator(self.persistor_id)

    def _results_json(self) -> ResultsJson:
        found = self.get_component(self.json_generator_id)
        return found if isinstance(found, ResultsJson) else ResultsJson(self.persistor_id)

    def _log_means(self, name: str, replies: dict[str, FLModel]) -> None:
        aggregator = self.get_component(self.aggregator_id)
        if not isinstance(aggregator, SlotOrderAggregator):
            aggregator = SlotOrderAggregator(getattr(aggregator, "aggregation_weights", None))
        scores = [
            Score(slot, examples_of(reply), {key: value for key, value in metrics.items() if isinstance(value, float)})
            for slot, reply in replies.items()
            if isinstance(metrics := reply.metrics, dict)
        ]
        means = ", ".join(f"{key} {value:.6g}" for key, value in sorted(aggregator.mean(scores).items()))
        self.info(f"model '{name}', mean over {len(scores)} sites: {means or 'no number'}")

    def _take(self, name: str, slot: str, reply: FLModel, found: Evaluation) -> None:
        try:
            if not isinstance(reply.metrics, dict):
                raise NotEvaluated(EXECUTION_RESULT_ERROR, "it holds no metrics")
            found.returned(name, slot, checked(examples_of(reply), reply.metrics))
        except NotEvaluated as problem:
            self._reporter().rejected(slot, str(problem))
            found.failed(name, [slot], problem.code, f"result rejected: {problem}")
