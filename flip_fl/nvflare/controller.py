"""The rounds of a standard job: train at the sites, aggregate, validate the new model at the sites, keep the best."""

from __future__ import annotations

import time
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.model_controller import ModelController

from flip_fl.aggregate.average import Arrays, Update, check_update
from flip_fl.aggregate.best import BestModel, Score
from flip_fl.nvflare.aggregator import SlotOrderAggregator
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.protocol import NUM_EXAMPLES_META, REPORTER_ID, get_failure, sender
from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.results.model_folder import BEST_MODEL
from flip_fl.values import Task, natural_key

QUORUM_POLL_S = 0.5


class RoundFailed(Exception):
    """The run cannot go on; the text is the reason that the hub shows."""


class FlipController(ModelController):
    """FedAvg with the validation of each new global model inside its own round.

    ``min_clients``: how many sites must return a usable result in each round (0: all of the job's sites).
    ``ignore_result_error``: go on without a site that failed while the quorum holds; otherwise its failure ends the
    run. ``best_model_metric``: the validation metric (weighted by examples) by which the best global model is kept.
    ``start_timeout_s``, ``task_timeout_s``: how long the server waits for the sites, and for a task's replies.
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
    ) -> None:
        # A client's error never panics inside NVFLARE: `run` decides, with the client's own report as the reason.
        super().__init__(persistor_id=persistor_id, ignore_result_error=True)
        self.num_rounds = num_rounds
        self.min_clients = min_clients
        self.ignore_result_error = ignore_result_error
        self.best_model_metric = best_model_metric
        self.best_model_minimize = best_model_minimize
        self.persistor_id = persistor_id
        self.aggregator_id = aggregator_id
        self.reporter_id = reporter_id
        self.start_timeout_s = start_timeout_s
        self.task_timeout_s = task_timeout_s
        # what the rounds measured, for the results bundle: task → round → slot → metrics
        self._history: dict[str, dict[int, dict[str, dict[str, float]]]] = {"train": {}, "validate": {}}
        self._failures: dict[str, str] = {}
        self._asked: tuple[str, int] = ("", 0)
        self._seen: set[str] = set()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        super().handle_event(event_type, fl_ctx)
        if event_type == EventType.BEFORE_PROCESS_TASK_REQUEST:
            peer = fl_ctx.get_peer_context()
            self._seen.add(peer.get_identity_name() if peer is not None else "")
        if event_type != EventType.BEFORE_PROCESS_SUBMISSION:
            return
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        if isinstance(result, Shareable) and result.get_return_code() not in (ReturnCode.OK, None):
            failure = get_failure(result)
            # The event is fired for late replies of an earlier task, too.
            if failure is None or (failure.task, failure.round) == self._asked:
                why = failure.headline if failure else str(result.get_return_code())
                self._failures[sender(result, fl_ctx)] = why

    def run(self) -> None:
        slots = self._await_sites()
        if slots is None:
            return
        model = self.load_model()
        if model is None:
            return  # load_model has panicked with its own reason
        arrays: Arrays = model.params
        best = BestModel(self.best_model_metric, self.best_model_minimize) if self.best_model_metric else None
        for number in range(1, self.num_rounds + 1):
            self._set_round(number)
            self.event(AppEventType.ROUND_STARTED)
            updates = self._train(arrays, slots, number)
            if updates is None:
                return
            arrays = self._aggregate(updates)
            self.save_model(FLModel(params_type=ParamsType.FULL, params=arrays))
            scores = self._validate(arrays, slots, number)
            if scores is None:
                return
            if isinstance(self.persistor, ArrayPersistor):
                self.persistor.models(self.fl_ctx).save_history(self._history)
                if best is not None and best.offer(number, scores):
                    self.persistor.save_as(BEST_MODEL, arrays, self.fl_ctx)

    # -- a round ----------------------------------------------------------------------------------------------

    def _train(self, arrays: Arrays, slots: list[str], number: int) -> list[Update] | None:
        replies = self._ask(Task.TRAIN, arrays, slots, number)
        if replies is None:
            return None
        updates = []
        for slot, reply in replies.items():
            update = Update(slot=slot, arrays=reply.params or {}, num_examples=_examples(reply))
            reason = check_update(arrays, update)
            if reason is None:
                updates.append(update)
                self._history["train"].setdefault(number, {})[slot] = dict(reply.metrics or {})
            else:
                self._failures[slot] = f"result rejected: {reason}"
                self._reporter().rejected(slot, reason)
        self._judge(Task.TRAIN, slots, [update.slot for update in updates], number)
        return updates

    def _aggregate(self, updates: list[Update]) -> Arrays:
        self.event(AppEventType.BEFORE_AGGREGATION)
        aggregator = self.get_component(self.aggregator_id)
        if not isinstance(aggregator, SlotOrderAggregator):
            aggregator = SlotOrderAggregator(getattr(aggregator, "aggregation_weights", None))
        arrays = aggregator.average(updates)
        self.event(AppEventType.AFTER_AGGREGATION)
        return arrays

    def _validate(self, arrays: Arrays, slots: list[str], number: int) -> list[Score] | None:
        replies = self._ask(Task.VALIDATE, arrays, slots, number)
        if replies is None:
            return None
        self._history["validate"][number] = {slot: dict(reply.metrics or {}) for slot, reply in replies.items()}
        self._judge(Task.VALIDATE, slots, list(replies), number)
        return [Score(slot, _examples(reply), dict(reply.metrics or {})) for slot, reply in replies.items()]

    def _ask(self, task: Task, arrays: Arrays, slots: list[str], number: int) -> dict[str, FLModel] | None:
        """The usable replies by slot, in slot order; None when the run was aborted meanwhile."""
        self._failures, self._asked = {}, (task.value, number)
        message = FLModel(
            params_type=ParamsType.FULL, params=arrays, current_round=number - 1, total_rounds=self.num_rounds
        )
        replies = self.send_model_and_wait(
            task_name=task.value, data=message, targets=slots, timeout=self.task_timeout_s
        )
        if self.abort_signal.triggered:
            return None
        by_slot = {str(reply.meta.get("client_name")): reply for reply in replies}
        return {slot: by_slot[slot] for slot in slots if slot in by_slot}

    def _judge(self, task: Task, slots: list[str], usable: list[str], number: int) -> None:
        """Whether the run goes on with the sites that gave something usable. Raises ``RoundFailed``."""
        missing = [slot for slot in slots if slot not in usable]
        if not missing:
            return
        words = "; ".join(f"{slot} in {task.value}, round {number}: {self._why(slot)}" for slot in missing)
        needed = self.min_clients or len(slots)
        if not self.ignore_result_error or not usable:
            raise RoundFailed(words)
        if len(usable) < needed:
            raise RoundFailed(f"{len(usable)} of the {needed} sites that the job needs returned; {words}")
        self.warning(f"going on without: {words}")

    def _why(self, slot: str) -> str:
        return self._failures.get(slot) or f"no reply (waited at most {self.task_timeout_s} s)"

    # -- around the rounds ------------------------------------------------------------------------------------

    def control_flow(self, abort_signal: Any, fl_ctx: FLContext) -> None:
        self.fl_ctx, self.abort_signal = fl_ctx, abort_signal
        if abort_signal.triggered:
            return  # NVFLARE goes on to its workflows after a panic in START_RUN
        try:
            self.event(AppEventType.TRAINING_STARTED)
            self.run()
        except RoundFailed as failed:
            self.panic(str(failed))
        except Exception as error:
            self.exception("the controller failed")
            self.panic(f"the server failed: {type(error).__name__}: {error}")

    def _await_sites(self) -> list[str] | None:
        """The job's sites once they have asked for work; None when the run was aborted meanwhile.

        After ``start_timeout_s`` those that are there, if they are enough. Raises ``RoundFailed`` naming who is not.
        """
        slots = sorted((client.name for client in self.engine.get_clients()), key=natural_key)
        needed = self.min_clients or len(slots)
        if needed > len(slots) or not slots:
            raise RoundFailed(
                f"the job needs {max(needed, 1)} sites and has {len(slots)}: {', '.join(slots) or 'none'}"
            )
        deadline = time.monotonic() + self.start_timeout_s
        while not self.abort_signal.triggered:
            there = [slot for slot in slots if slot in self._seen]
            if len(there) == len(slots):
                return there
            if time.monotonic() >= deadline:
                missing = ", ".join(slot for slot in slots if slot not in there)
                if len(there) < needed:
                    raise RoundFailed(
                        f"{missing} did not ask for work in {self.start_timeout_s} s; {needed} are needed"
                    )
                self.warning(f"going on without {missing}, who did not ask for work in {self.start_timeout_s} s")
                return there
            time.sleep(QUORUM_POLL_S)
        return None

    def _set_round(self, number: int) -> None:
        self.fl_ctx.set_prop(AppConstants.CURRENT_ROUND, number - 1, private=True, sticky=True)
        self.fl_ctx.set_prop(AppConstants.NUM_ROUNDS, self.num_rounds, private=True, sticky=True)

    def _reporter(self) -> FlipReporter:
        component = self.get_component(self.reporter_id)
        if not isinstance(component, FlipReporter):
            raise RoundFailed(f"the job has no {FlipReporter.__name__} with the id {self.reporter_id}")
        return component


def _examples(reply: FLModel) -> int:
    value = reply.meta.get(NUM_EXAMPLES_META, 0)
    return value if isinstance(value, int) else 0
