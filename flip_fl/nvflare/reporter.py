"""The widget that turns NVFLARE's server events into the run's story at the hub.

It listens, appends to the outbox and returns; it never touches the network. It works the same under our controller,
NVFLARE's own FedAvg and ScatterAndGather. What the context holds differs between them (FedAvg's round is only there in
some events, its peer is stale on the controller's thread), so the round is remembered here.
"""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from nvflare.apis.dxo import DXO, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey, ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.widgets.widget import Widget

from flip_fl.app.config import load_config
from flip_fl.app.settings_told import settings_told
from flip_fl.errors import FlipError
from flip_fl.nvflare.inbox import Heard, SiteInbox
from flip_fl.nvflare.model_id import find_model_id
from flip_fl.nvflare.places import custom_dir
from flip_fl.nvflare.protocol import LIVE_EVENT, get_failure, sender
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.session import Reporting, open_reporting
from flip_fl.settings import ServerSettings, load_server, says_dev, settings_file
from flip_fl.values import SERVER_NAME, natural_key

ENDED = "ended by the engine"
ENDED_BY_ENGINE = f"{ENDED}: a client or the server process was lost"
NO_HUB = "set FLIP_API_INTERNAL_URL, INTERNAL_SERVICE_KEY and UPLOADED_FEDERATED_DATA_BUCKET in local/flip.env"
STOPPED_AT_HUB = "stopped at the hub"
# What NVFLARE says when the sites that are left are fewer than the job's minimum, whoever is gone.
POLICY_VIOLATED = "deployment policy violation"
WATCH_POLL_S = 0.5


class FlipReporter(Widget):
    """Reports a job's statuses, rounds, results, metrics and failures.

    ``model_id``: a UUID, or empty to look it up (see ``find_model_id``). A setting that is missing or malformed stops
    the job before its first round.
    """

    def __init__(self, model_id: str = "") -> None:
        super().__init__()
        self.model_id = model_id
        self._reporting: Reporting | LocalReporting | None = None
        self._inbox: SiteInbox | None = None
        self._found: UUID | None = None
        self._state: Path | None = None
        self._settings: ServerSettings | None = None
        # Of a job with several stages: set by the controller before a round starts.
        self.stage: str | None = None
        self._round = 0
        self._total = 0
        self._accepted: set[str] = set()
        # When each task left for its site (monotonic seconds), and what its site's newest reply said beside numbers.
        self._asked: dict[str, float] = {}
        self._heard: dict[str, Heard] = {}
        self._fatal = False
        self._away: set[str] = set()
        self._handlers = {
            EventType.START_RUN: self._start_run,
            AppEventType.INITIAL_MODEL_LOADED: self._prepared,
            AppEventType.ROUND_STARTED: self._round_started,
            EventType.AFTER_TASK_DATA_FILTER: self._assigned,
            EventType.BEFORE_PROCESS_SUBMISSION: self._submission,
            AppEventType.AFTER_CONTRIBUTION_ACCEPT: self._contribution,
            AppEventType.AFTER_AGGREGATION: self._aggregated,
            EventType.FATAL_SYSTEM_ERROR: self._fatal_error,
            EventType.CLIENT_DISCONNECTED: self._disconnected,
            EventType.CLIENT_RECONNECTED: self._reconnected,
            LIVE_EVENT: self._live_events,
            EventType.END_RUN: self._end_run,
        }

    @property
    def reporting(self) -> Reporting | LocalReporting:
        """What this run reports through. Raises ``RuntimeError`` outside a run."""
        if self._reporting is None:
            raise RuntimeError("the run has not started")
        return self._reporting

    @property
    def inbox(self) -> SiteInbox:
        """Where the sites' reports come in. Raises ``RuntimeError`` outside a run."""
        if self._inbox is None:
            raise RuntimeError("the run has not started")
        return self._inbox

    @property
    def settings(self) -> ServerSettings | None:
        """The server's settings; None in development without a hub."""
        return self._settings

    @property
    def in_run(self) -> bool:
        """Whether a run is open: reports can be made."""
        return self._reporting is not None

    @property
    def state_dir(self) -> Path:
        """Where outboxes lie. Raises ``RuntimeError`` before the run has started."""
        if self._state is None:
            raise RuntimeError("the run has not started")
        return self._state

    @property
    def run_model_id(self) -> UUID:
        """The model that this run reports on. Raises ``RuntimeError`` before the run has started."""
        if self._found is None:
            raise RuntimeError("the run has not started")
        return self._found

    @property
    def round(self) -> int:
        """The round that has started last, from 1; 0 before the first."""
        return self._round

    def open(self, reporting: Reporting | LocalReporting) -> None:
        """Report through ``reporting`` from now on."""
        self._inbox, self._reporting = SiteInbox(reporting.reporter), reporting

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        handler = self._handlers.get(event_type)
        if handler is None or (self._reporting is None and event_type != EventType.START_RUN):
            return
        handler(fl_ctx)

    # -- the run ----------------------------------------------------------------------------------------------

    def _start_run(self, fl_ctx: FLContext) -> None:
        workspace = fl_ctx.get_engine().get_workspace()
        job_id = fl_ctx.get_job_id()
        root = Path(workspace.get_root_dir())
        file = settings_file(SERVER_NAME, root)
        try:
            self._settings = load_server(file)
            model_id = find_model_id(self.model_id, custom_dir(fl_ctx), Path(workspace.get_job_meta_path(job_id)))
            state = self._settings.state_dir if self._settings and self._settings.state_dir else root / "state"
            self._found, self._state = model_id, state
            self.open(
                open_reporting(self._settings, model_id, state) if self._settings else LocalReporting(model_id, state)
            )
        except FlipError as error:
            # NVFLARE swallows what a handler raises; only a panic stops the job.
            self.system_panic(f"FLIP-{error.code}: {error.what} (fix: {error.fix})", fl_ctx)
            return
        except OSError as error:
            self.system_panic(f"reporting cannot start: {error.strerror or type(error).__name__}", fl_ctx)
            return
        if self._settings is None and fl_ctx.get_prop(FLContextKey.SECURE_MODE, False) and not says_dev(file):
            self.system_panic("a server of a secured federation needs a hub: " + NO_HUB, fl_ctx)
            return
        if self._settings is None:
            self.log_warning(fl_ctx, "no hub is configured (development): the run's story stays in this workspace")
        self.reporting.lifecycle.initiated()
        with contextlib.suppress(FlipError):
            # An app that has no readable config is refused by name elsewhere.
            config = load_config(custom_dir(fl_ctx))
            self.reporting.lifecycle.configured(settings_told(config.raw, "NVFLARE", "nvflare"))
        watched = (fl_ctx.get_engine(), fl_ctx.get_run_abort_signal())
        threading.Thread(target=self._watch, args=watched, daemon=True).start()

    def _prepared(self, fl_ctx: FLContext) -> None:
        self.reporting.lifecycle.prepared()

    def _end_run(self, fl_ctx: FLContext) -> None:
        lifecycle = self.reporting.lifecycle
        signal = fl_ctx.get_run_abort_signal()
        if lifecycle.cause is None and signal is not None and signal.triggered:
            lifecycle.fail(self._ending())
        self.inbox.close()
        status = lifecycle.finish()
        self.log_info(fl_ctx, f"the run ends {status.value}")
        self.reporting.close()
        self._reporting = None

    def _watch(self, engine: Any, abort_signal: Signal | None) -> None:
        """Obey a stop at the hub, and note an abort while there is time: NVFLARE kills this process 10 s after one.

        Also lets the inbox store what has waited for reports that do not come.
        """
        while (reporting := self._reporting) is not None:
            if reporting.stop_requested:
                # Before the engine is told: the first cause in time is the run's end.
                reporting.lifecycle.stop(STOPPED_AT_HUB)
                with engine.new_context() as fl_ctx:
                    self.system_panic(STOPPED_AT_HUB, fl_ctx)
                return
            if abort_signal is not None and abort_signal.triggered:
                if reporting.lifecycle.cause is None:
                    reporting.lifecycle.fail(self._ending())
                return
            self.inbox.tick()
            time.sleep(WATCH_POLL_S)

    def _ending(self) -> str:
        """Why the engine has aborted the run: it says it to its own process alone."""
        lost = self.reporting.lost
        return f"{ENDED}: {lost}" if lost else ENDED_BY_ENGINE

    def _fatal_error(self, fl_ctx: FLContext) -> None:
        reason = str(fl_ctx.get_prop(FLContextKey.EVENT_DATA, default=""))
        self._fatal = True
        if POLICY_VIOLATED in reason and self._away:
            slots = ", ".join(sorted(self._away, key=natural_key))
            why = self.reporting.lost or "the server has not heard from them any more"
            reason = f"too few sites are left: {slots} disconnected, {why}"
        if reason != STOPPED_AT_HUB:  # our own way of telling the engine; the cause is known
            self.reporting.lifecycle.fail(reason or "the engine gave no reason")

    def _disconnected(self, fl_ctx: FLContext) -> None:
        slot = fl_ctx.get_prop(FLContextKey.DISCONNECTED_CLIENT_NAME)
        self.inbox.gone(slot)
        self._away.add(slot)
        self.reporting.reporter.failure(
            slot, f"{slot} is disconnected: the server has not heard from it", global_round=self._round or None
        )

    def _reconnected(self, fl_ctx: FLContext) -> None:
        self._away.discard(fl_ctx.get_prop(FLContextKey.RECONNECTED_CLIENT_NAME))

    # -- rounds -----------------------------------------------------------------------------------------------

    def _round_started(self, fl_ctx: FLContext) -> None:
        if self._fatal:
            return  # FedAvg starts one more round after a fatal error
        current = fl_ctx.get_prop(AppConstants.CURRENT_ROUND)
        total = fl_ctx.get_prop(AppConstants.NUM_ROUNDS)
        self._round = int(current) + 1 if current is not None else self._round + 1
        self._total = int(total) if total is not None else self._total
        self._accepted = set()
        self.reporting.lifecycle.round_started(self._round, max(self._total, self._round), stage=self.stage)

    def _contribution(self, fl_ctx: FLContext) -> None:
        result = fl_ctx.get_prop(AppConstants.TRAINING_RESULT)
        if not fl_ctx.get_prop(AppConstants.AGGREGATION_ACCEPTED) or not isinstance(result, Shareable):
            return
        size = model_bytes(result)
        if size is None and self.reporting.lifecycle.task is None:
            return  # a validation's reply carries no model; an evaluation's is what its round is for
        slot = sender(result, fl_ctx)
        self._accepted.add(slot)
        heard = self._heard.get(slot, Heard())
        self.reporting.lifecycle.client_result(
            slot,
            self._round,
            size,
            seconds=heard.took_s,
            stage=self.stage,
            facts=heard.facts,
            clock=heard.clock,
        )

    def _aggregated(self, fl_ctx: FLContext) -> None:
        self.close_round(len(fl_ctx.get_engine().get_clients()))

    def close_round(self, expected: int) -> None:
        """The round has the results of those that returned, of ``expected`` sites."""
        self.reporting.lifecycle.aggregated(self._round, len(self._accepted), expected, stage=self.stage)

    def rejected(self, slot: str, reason: str) -> None:
        """A result that NVFLARE accepted cannot be aggregated: it does not count among the returned ones."""
        self._accepted.discard(slot)
        text = f"the result of {slot} is rejected: {reason}"
        self.reporting.reporter.failure(slot, text, global_round=self._round or None)

    # -- what sites say ---------------------------------------------------------------------------------------

    def _assigned(self, fl_ctx: FLContext) -> None:
        # Each site's task has an id of its own, which the server has made.
        self._asked[str(fl_ctx.get_prop(FLContextKey.TASK_ID))] = time.monotonic()

    def _submission(self, fl_ctx: FLContext) -> None:
        result = fl_ctx.get_prop(FLContextKey.TASK_RESULT)
        if not isinstance(result, Shareable):
            return
        slot = sender(result, fl_ctx)
        asked = self._asked.pop(str(fl_ctx.get_prop(FLContextKey.TASK_ID)), None)
        took = None if asked is None else time.monotonic() - asked
        self._heard[slot] = self.inbox.result(slot, result, self._round, took)
        code = result.get_return_code()
        if code in (ReturnCode.OK, None):
            return
        task = fl_ctx.get_prop(FLContextKey.TASK_NAME)
        failure = get_failure(result)
        number = self._round
        if failure is not None:
            text, number = failure.text, failure.round
        else:
            text = f"{slot} returned {code} in task {task}; the engine gave no traceback"
        self.reporting.reporter.failure(slot, text, global_round=number or None)

    def _live_events(self, fl_ctx: FLContext) -> None:
        data = fl_ctx.get_prop(FLContextKey.EVENT_DATA)
        if isinstance(data, Shareable):
            # NVFLARE checks that the sender is a client of the job; the name is that client's own word. The
            # acknowledged copy in the task's reply is the one that is bound to the client's token.
            self.inbox.live(data.get_peer_prop(ReservedKey.IDENTITY_NAME, ""), data, self._round)


def model_bytes(result: Shareable) -> int | None:
    """Bytes of the arrays that a result carries, or None when it carries no model."""
    try:
        dxo: DXO = from_shareable(result)
    except (ValueError, TypeError):
        return None
    sizes = [value.nbytes for value in _leaves(dxo.data) if hasattr(value, "nbytes")]
    return sum(sizes) if sizes else None


def _leaves(data: Any) -> list[Any]:
    return list(data.values()) if isinstance(data, dict) else []
