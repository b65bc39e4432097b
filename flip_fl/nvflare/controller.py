"""The rounds of a job that trains: train at the sites, aggregate, validate the new model there, keep the best."""

from __future__ import annotations

from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.widgets.intime_model_selector import IntimeModelSelector

from flip_fl.aggregate.average import Arrays, Update, check_update
from flip_fl.aggregate.best import BestModel, Score
from flip_fl.aggregate.comparison import comparison
from flip_fl.aggregate.differences import restored
from flip_fl.aggregate.optimizers import ServerOptimizer, read_optimizer
from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.forms import FormKind, form_of
from flip_fl.app.plan import Stage, rounds_of, stages_in
from flip_fl.app.secure import engine_problem
from flip_fl.app.weights import Frame, StartingModel
from flip_fl.nvflare.aggregator import SlotOrderAggregator
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.places import custom_dir
from flip_fl.nvflare.protocol import REPORTER_ID, TaskNote
from flip_fl.nvflare.tasks import RoundFailed, SiteTasks, examples_of
from flip_fl.results.model_folder import BEST_MODEL
from flip_fl.values import Task

__all__ = ["FlipController", "RoundFailed"]


class FlipController(SiteTasks):
    """Federated rounds with the validation of each new global model inside its own round; further, see ``SiteTasks``.

    ``stages`` (name → rounds) are gone through in order, each starting from the result of the one before; without them
    there is one of ``num_rounds``; 0 rounds are as many as the app's config.json says. ``server_optimizer`` is applied
    to the averaged difference (None: the average is the new model; empty: config.json's). ``best_model_metric``: the
    validation metric (weighted by examples) by which the best global model, of the last stage, is kept; empty: that of
    a component ``model_selector_id``, an ``IntimeModelSelector`` of NVFLARE's, else config.json's.
    ``cross_site_validation``, here or there: at the end every site also scores every site's last model.
    A script that does not ask which task it has is never asked to validate (see ``flip_fl.app.script``).
    """

    def __init__(
        self,
        num_rounds: int = 1,
        min_clients: int = 0,
        ignore_result_error: bool = False,
        best_model_metric: str = "",
        best_model_minimize: bool = False,
        persistor_id: str = "persistor",
        aggregator_id: str = "aggregator",
        reporter_id: str = REPORTER_ID,
        start_timeout_s: int = 600,
        task_timeout_s: int = 86_400,
        stages: dict[str, int] | None = None,
        server_optimizer: dict[str, Any] | str | None = None,
        cross_site_validation: bool = False,
        model_selector_id: str = "model_selector",
    ) -> None:
        self._plan = stages_in(stages or {"": num_rounds})
        super().__init__(
            total=self._plan[-1].last,
            min_clients=min_clients,
            ignore_result_error=ignore_result_error,
            persistor_id=persistor_id,
            reporter_id=reporter_id,
            start_timeout_s=start_timeout_s,
            task_timeout_s=task_timeout_s,
        )
        # NVFLARE writes a job out by the attributes that are called as the arguments are.
        self.num_rounds = num_rounds
        self.stages = stages
        self.best_model_metric = best_model_metric
        self.best_model_minimize = best_model_minimize
        self.aggregator_id = aggregator_id
        self.server_optimizer = server_optimizer
        self.cross_site_validation = cross_site_validation
        self.model_selector_id = model_selector_id
        self._best_metric: tuple[str, bool] = ("", False)
        self._config: AppConfig | None = None
        # what the rounds measured, for the results bundle: task → round → slot → metrics
        self._history: dict[str, dict[Any, dict[str, dict[str, float]]]] = {"train": {}, "validate": {}}
        self._measured: list[Score] = []
        self._validates = True

    def run(self) -> None:
        self._settle(load_config(custom_dir(self.fl_ctx)))
        slots = self._await_sites()
        if slots is None:
            return
        form = form_of(custom_dir(self.fl_ctx))
        self._validates = form.kind is not FormKind.CLIENT_API or form.validates
        model = self.load_model()
        if model is None:
            return  # load_model has panicked with its own reason
        sent, frame = self._start(model.params)
        for stage in self._plan:
            if stage.first > 1:
                sent, frame = self._next_stage(stage)
            trained = self._stage(stage, sent, frame, slots)
            if trained is None:
                return
            sent = trained

    def _settle(self, config: AppConfig) -> None:
        """Look up in the app's config.json what the job leaves to it."""
        self._config = config
        refused = engine_problem(config, "nvflare")
        if refused is not None:
            raise RoundFailed(refused.sentence)
        given = self.stages or {"": self.num_rounds}
        if not all(given.values()):
            said = rounds_of(config)
            self._plan = stages_in({name: rounds or said.get(name, 1) for name, rounds in given.items()})
            self.total = self._plan[-1].last
        selector = self.get_component(self.model_selector_id)
        if self.best_model_metric:
            self._best_metric = (self.best_model_metric, self.best_model_minimize)
        elif isinstance(selector, IntimeModelSelector):
            self._best_metric = (str(selector.key_metric), bool(selector.negate_key_metric))
        else:
            self._best_metric = (config.best_model_metric or "", config.best_model_metric_minimize)

    # -- a stage ----------------------------------------------------------------------------------------------

    def _start(self, arrays: Arrays) -> tuple[Arrays, Frame]:
        """What goes to the sites of the model that was loaded, and the rest of it."""
        if isinstance(self.persistor, ArrayPersistor):
            frame = self.persistor.frame
            return {name: arrays[name] for name in frame.travelling}, frame
        return arrays, StartingModel.of(arrays).frame

    def _next_stage(self, stage: Stage) -> tuple[Arrays, Frame]:
        if not isinstance(self.persistor, ArrayPersistor):
            raise RoundFailed(f"a job of several stages needs {ArrayPersistor.__name__} as its {self.persistor_id}")
        start = self.persistor.start_stage(stage.name, self.fl_ctx)
        if start is None:
            raise RoundFailed(f"stage {stage.name} cannot start: the store has no model of the stage before")
        return start.sent, start.frame

    def _stage(self, stage: Stage, sent: Arrays, frame: Frame, slots: list[str]) -> Arrays | None:
        """What the stage made of ``sent``; None when the run was aborted meanwhile."""
        final = stage is self._plan[-1]
        metric, minimize = self._best_metric
        best = BestModel(metric, minimize) if metric and final else None
        optimizer = None
        if self.server_optimizer is not None:
            said = self._config.server_optimizer if self._config is not None else None
            optimizer = ServerOptimizer(read_optimizer(self.server_optimizer or said), frame.trainable)
        updates: list[Update] = []
        for number in range(stage.first, stage.last + 1):
            self._set_round(number)
            self._reporter().stage = stage.name
            self.event(AppEventType.ROUND_STARTED)
            returned = self._train(sent, slots, number, stage)
            if returned is None:
                return None
            updates = returned
            if not self._validates and number > stage.first:
                # Measured on the model that was sent: the one that the round before has made.
                self._keep(frame.whole(sent), number - 1, best, self._measured)
            averaged = self._aggregate(sent, updates, number, stage)
            sent = averaged if optimizer is None else optimizer.step(sent, averaged)
            self.save_model(FLModel(params_type=ParamsType.FULL, params=frame.whole(sent)))
            if not self._validates:
                continue
            scores = self._validate(sent, slots, number, stage)
            if scores is None:
                return None
            self._keep(frame.whole(sent), number, best, scores)
        if best is not None and (unfound := best.unfound) is not None:
            self._reporter().reporting.reporter.log(unfound, success=False)
        crossed = self.cross_site_validation or (self._config is not None and self._config.cross_site_validation)
        if final and crossed and not self._cross_validate(updates, slots, stage):
            return None
        return sent

    def _keep(self, whole: Arrays, number: int, best: BestModel | None, scores: list[Score]) -> None:
        if isinstance(self.persistor, ArrayPersistor):
            self.persistor.models(self.fl_ctx).save_history(self._history)
            if best is not None and best.offer(number, scores):
                self.persistor.save_as(BEST_MODEL, whole, self.fl_ctx)

    # -- a round ----------------------------------------------------------------------------------------------

    def _train(self, sent: Arrays, slots: list[str], number: int, stage: Stage) -> list[Update] | None:
        replies = self._ask(Task.TRAIN, sent, slots, number, TaskNote(stage=stage.name))
        if replies is None:
            return None
        updates = []
        self._measured = []
        task, of = ("train", number) if self._validates else ("validate", number - 1)
        for slot, reply in replies.items():
            update = Update(slot=slot, arrays=reply.params or {}, num_examples=examples_of(reply))
            reason = check_update(sent, update)
            if reason is None:
                if reply.params_type == ParamsType.DIFF:
                    update = Update(slot, restored(sent, update.arrays), update.num_examples)
                updates.append(update)
                metrics = dict(reply.metrics or {})
                if self._validates or metrics:
                    self._history[task].setdefault(of, {})[slot] = metrics
                self._measured.append(Score(slot, update.num_examples, metrics))
            else:
                self._failures[slot] = f"result rejected: {reason}"
                self._reporter().rejected(slot, reason)
        self._judge(Task.TRAIN, slots, [update.slot for update in updates], number, stage.name)
        return updates

    def _aggregate(self, sent: Arrays, updates: list[Update], number: int, stage: Stage) -> Arrays:
        self.event(AppEventType.BEFORE_AGGREGATION)
        aggregator = self.get_component(self.aggregator_id)
        if not isinstance(aggregator, SlotOrderAggregator):
            aggregator = SlotOrderAggregator(getattr(aggregator, "aggregation_weights", None))
        returned = {update.slot: update.arrays for update in updates}
        counts = {update.slot: update.num_examples for update in updates}
        lifecycle = self._reporter().reporting.lifecycle
        weights = aggregator.aggregation_weights or None
        lifecycle.compared(number, comparison(sent, returned, counts, lifecycle.counts, weights), stage=stage.name)
        arrays = aggregator.average(updates)
        self.event(AppEventType.AFTER_AGGREGATION)
        return arrays

    def _validate(self, sent: Arrays, slots: list[str], number: int, stage: Stage) -> list[Score] | None:
        replies = self._ask(Task.VALIDATE, sent, slots, number, TaskNote(stage=stage.name))
        if replies is None:
            return None
        self._history["validate"][number] = {slot: dict(reply.metrics or {}) for slot, reply in replies.items()}
        self._judge(Task.VALIDATE, slots, list(replies), number, stage.name)
        return [Score(slot, examples_of(reply), dict(reply.metrics or {})) for slot, reply in replies.items()]

    def _cross_validate(self, updates: list[Update], slots: list[str], stage: Stage) -> bool:
        """Score each site's last model at every site; False when the run was aborted meanwhile."""
        found: dict[Any, dict[str, dict[str, float]]] = {}
        for update in updates:
            note = TaskNote(stage=stage.name, model=update.slot, quiet=True)
            replies = self._ask(Task.VALIDATE, dict(update.arrays), slots, stage.last, note)
            if replies is None:
                return False
            found[update.slot] = {slot: dict(reply.metrics or {}) for slot, reply in replies.items()}
            self._judge(Task.VALIDATE, slots, list(replies), stage.last, stage.name)
        self._history["cross_site"] = found
        if isinstance(self.persistor, ArrayPersistor):
            self.persistor.models(self.fl_ctx).save_history(self._history)
        return True
