"""What every controller of ours does with the sites: wait for them, ask them, judge what they returned."""

from __future__ import annotations

import time
from abc import abstractmethod
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.model_controller import ModelController

from flip_fl.aggregate.average import Arrays
from flip_fl.errors import FlipError
from flip_fl.nvflare.old_paths import accept_old_paths
from flip_fl.nvflare.protocol import NUM_EXAMPLES_META, REPORTER_ID, TaskNote, get_failure, put_note, sender
from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.reporting.sites_awaited import SitesAwaited
from flip_fl.values import Task, natural_key, task_words

QUORUM_POLL_S = 0.5


class RoundFailed(Exception):
    """The run cannot go on; the text is the reason that the hub shows."""


class SiteTasks(ModelController):
    """A workflow whose sites work on a model; ``run`` says in which order.

    ``total`` rounds are planned. ``min_clients``: how many sites must return a usable result (0: all of the job's).
    ``ignore_result_error``: go on without a site that failed while the quorum holds; otherwise its failure ends the
    run. ``start_timeout_s``, ``task_timeout_s``: how long the server waits for the sites, and for a task's replies.
    """

    def __init__(
        self,
        total: int,
        min_clients: int = 0,
        ignore_result_error: bool = False,
        persistor_id: str = "persistor",
        reporter_id: str = REPORTER_ID,
        start_timeout_s: int = 600,
        task_timeout_s: int = 86_400,
    ) -> None:
        accept_old_paths()
        # A client's error never panics inside NVFLARE: `run` decides, with the client's own report as the reason.
        super().__init__(persistor_id=persistor_id, ignore_result_error=True)
        self.total = total
        self.min_clients = min_clients
        self.ignore_result_error = ignore_result_error
        self.persistor_id = persistor_id
        self.reporter_id = reporter_id
        self.start_timeout_s = start_timeout_s
        self.task_timeout_s = task_timeout_s
        self._failures: dict[str, str] = {}
        self._codes: dict[str, str] = {}
        self._asked: tuple[str, int] = ("", 0)
        self._seen: set[str] = set()

    @abstractmethod
    def run(self) -> None:
        """The workflow itself; ``RoundFailed`` ends it."""

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
                slot = sender(result, fl_ctx)
                self._failures[slot], self._codes[slot] = why, str(result.get_return_code())

    # -- a task -----------------------------------------------------------------------------------------------

    def _ask(
        self, task: Task, arrays: Arrays, slots: list[str], number: int, note: TaskNote | None = None
    ) -> dict[str, FLModel] | None:
        """The usable replies by slot, in slot order; None when the run was aborted meanwhile."""
        self._failures, self._codes, self._asked = {}, {}, (task.value, number)
        message = FLModel(params_type=ParamsType.FULL, params=arrays, current_round=number - 1, total_rounds=self.total)
        message.meta = put_note(note or TaskNote())
        replies = self.send_model_and_wait(
            task_name=task.value, data=message, targets=slots, timeout=self.task_timeout_s
        )
        if self.abort_signal.triggered:
            return None
        by_slot = {str(reply.meta.get("client_name")): reply for reply in replies}
        return {slot: by_slot[slot] for slot in slots if slot in by_slot}

    def _judge(self, task: Task, slots: list[str], usable: list[str], number: int, stage: str | None = None) -> None:
        """Whether the run goes on with the sites that gave something usable. Raises ``RoundFailed``."""
        missing = [slot for slot in slots if slot not in usable]
        if not missing:
            return
        place = task_words(task.value, number, stage)
        words = "; ".join(f"{slot} in {place}: {self._why(slot)}" for slot in missing)
        needed = self.min_clients or len(slots)
        if not self.ignore_result_error or not usable:
            raise RoundFailed(words)
        if len(usable) < needed:
            raise RoundFailed(f"{len(usable)} of the {needed} sites that the job needs returned; {words}")
        self.warning(f"going on without: {words}")

    def _why(self, slot: str) -> str:
        return self._failures.get(slot) or f"no reply (waited at most {self.task_timeout_s} s)"

    def control_flow(self, abort_signal: Any, fl_ctx: FLContext) -> None:
        self.fl_ctx, self.abort_signal = fl_ctx, abort_signal
        if abort_signal.triggered:
            return  # NVFLARE goes on to its workflows after a panic in START_RUN
        try:
            self.event(AppEventType.TRAINING_STARTED)
            self.run()
        except RoundFailed as failed:
            self.panic(str(failed))
        except FlipError as error:
            self.panic(error.sentence)
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
        awaited = SitesAwaited(self._reporter().reporting.reporter, needed, self.start_timeout_s)
        while not self.abort_signal.triggered:
            there = [slot for slot in slots if slot in self._seen]
            if len(there) == len(slots):
                return there
            awaited.look(there, slots)
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
        self.fl_ctx.set_prop(AppConstants.NUM_ROUNDS, self.total, private=True, sticky=True)

    def _reporter(self) -> FlipReporter:
        component = self.get_component(self.reporter_id)
        if not isinstance(component, FlipReporter):
            raise RoundFailed(f"the job has no {FlipReporter.__name__} with the id {self.reporter_id}")
        return component


def examples_of(reply: FLModel) -> int:
    value = reply.meta.get(NUM_EXAMPLES_META, 0)
    return value if isinstance(value, int) else 0
