"""The client's side: runs the tasks of a neutral app in a trust and sends back arrays, numbers and reports."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable, make_reply
from nvflare.apis.signal import Signal
from nvflare.app_common.app_constant import AppConstants

from flip_fl.app.calls import Call
from flip_fl.app.config import DIFF, load_config
from flip_fl.app.failures import Failure
from flip_fl.app.faults import AppError
from flip_fl.app.forms import FormKind, form_of, refusal
from flip_fl.app.isolation.call import IsolatedCall
from flip_fl.app.isolation.choice import isolated, level_for, to_tell
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.plan import total_rounds
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.script import Script
from flip_fl.app.secure import engine_problem
from flip_fl.app.site import SiteSpec
from flip_fl.data.sources import open_source
from flip_fl.nvflare.old_paths import accept_old_paths
from flip_fl.nvflare.places import custom_dir
from flip_fl.nvflare.protocol import LIVE_EVENT, NUM_EXAMPLES_META, TaskNote, get_note, put_batch, put_failure
from flip_fl.nvflare.site_gate import HELD_TO_POLICY
from flip_fl.privacy.site_policy import site_policy
from flip_fl.settings import development_environment, is_dev, settings_file, settings_place
from flip_fl.values import Task
from flip_fl.wire import SiteBatch

NAME = "nvflare"
SCRIPT_HOST = "flip_fl.nvflare.script_host"


class FlipExecutor(Executor):
    """Runs ``train`` and ``validate``, or ``evaluate``, of the app in ``custom/``, or its Client-API script.

    ``project_id`` and ``query`` name the cohort; they are passed to the trust's services unread. ``local_rounds`` is
    LOCAL_ROUNDS where the app's config.json does not say it; text, as NVFLARE fills it in, is a number here, too.
    """

    def __init__(self, project_id: str = "", query: str = "", local_rounds: int | str = 0) -> None:
        super().__init__()
        accept_old_paths()
        self.project_id = project_id
        self.query = query
        self.local_rounds = local_rounds
        self._session: Session | None = None
        self._call: Call | None = None
        self._abort_signal: Signal | None = None
        self._engine: Any = None

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.START_RUN:
            self._engine = fl_ctx.get_engine()
        elif event_type == EventType.END_RUN and self._session is not None:
            if isinstance(self._call, Script | IsolatedCall):
                self._call.close()
            self._session.release()
            self._session = None

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        if task_name not in tuple(Task):
            return make_reply(ReturnCode.TASK_UNKNOWN)
        task = Task(task_name)
        slot = fl_ctx.get_identity_name()
        current = shareable.get_header(AppConstants.CURRENT_ROUND)
        number = int(current) + 1 if current is not None else 1
        self._abort_signal = abort_signal
        try:
            session = self._open_session(slot, fl_ctx)
            sent = from_shareable(shareable)
            spec = self._spec(session, slot, number, shareable, get_note(sent.meta), task)
        except Exception as error:
            return _failed(Failure.of(error, slot=slot, task=task.value, round=number))
        reply = self._reply(run_task(task, sent.data, spec, session, self._call), task, shareable)
        fl_ctx.set_prop(HELD_TO_POLICY, reply, private=True, sticky=False)
        return reply

    def _open_session(self, slot: str, fl_ctx: FLContext) -> Session:
        if self._session is None:
            workspace = Path(fl_ctx.get_engine().get_workspace().get_root_dir())
            file = settings_file(slot, workspace)
            local = is_dev(file)
            app_dir = custom_dir(fl_ctx)
            imaging = load_config(app_dir).imaging
            # An app's own FLIP() finds this site's data. Paths only: a development file holds no key.
            own = development_environment(file, imaging=imaging) if local else {}
            os.environ.update(own)
            policy = site_policy(settings_place(slot, workspace), NAME)
            wanted = Isolation.of(policy, development=local)
            level = level_for(wanted, development=local)
            self._call = call_of(app_dir, fl_ctx.get_job_id(), own, wanted, level, local=local)
            self._session = Session(
                app_dir=app_dir,
                source=open_source(slot, workspace, imaging=imaging),
                publish=self._publish,
                aborted=lambda: self._abort_signal is not None and bool(self._abort_signal.triggered),
                job=fl_ctx.get_job_id(),
                local_rounds=self.local_rounds,
                policy=policy,
                less_than_full=to_tell(level, development=local),
            )
        return self._session

    def _spec(
        self, session: Session, slot: str, number: int, shareable: Shareable, note: TaskNote, task: Task
    ) -> SiteSpec:
        config = session.config
        total = shareable.get_header(AppConstants.NUM_ROUNDS)
        return SiteSpec(
            slot=slot,
            round=number,
            total_rounds=int(total) if total is not None else total_rounds(config),
            task=task,
            stage=note.stage,
            model=note.model,
            quiet=note.quiet,
            seed=config.seed,
            project_id=self.project_id,
            query=self.query or config.query,
        )

    def _reply(self, result: Result, task: Task, request: Shareable) -> Shareable:
        if result.aborted:
            reply = make_reply(ReturnCode.TASK_ABORTED)
        elif result.failure is not None:
            reply = _failed(result.failure)
        else:
            reply = _dxo(result, task).to_shareable()
        for header in (AppConstants.CURRENT_ROUND, AppConstants.NUM_ROUNDS):
            if request.get_header(header) is not None:
                reply.set_header(header, request.get_header(header))
        if result.reports is not None:
            put_batch(reply, result.reports)
        return reply

    def _publish(self, batch: SiteBatch) -> None:
        """Send a live batch. Fire and forget: the same events ride again in the acknowledged reply."""
        if self._engine is None:
            return
        data = Shareable()
        put_batch(data, batch)
        with self._engine.new_context() as fl_ctx:
            self.fire_fed_event(LIVE_EVENT, data, fl_ctx)


def call_of(
    app_dir: Path, job: str, environment: Mapping[str, str], wanted: Isolation, level: Level, *, local: bool
) -> Call | None:
    """The way to the app's code; None where it is called in this process. ``environment``: what the app has of its own.

    Raises ``AppError`` for a form that is not run here, and for secure aggregation: no update may leave without it.
    """
    form = form_of(app_dir)
    unable = engine_problem(load_config(app_dir), NAME)
    if unable is not None:
        raise AppError(f"{unable.what}: {unable.fix}")
    if form.kind is FormKind.CLIENT_API:
        return Script(form, SCRIPT_HOST, job, asks=not local, level=level, wanted=wanted, environment=environment)
    refused = refusal(form, NAME)
    if refused is not None:
        raise AppError(f"{refused.what}: {refused.fix}")
    return isolated(level, wanted, environment)


def _dxo(result: Result, task: Task) -> DXO:
    meta = {NUM_EXAMPLES_META: result.num_examples}
    if task is not Task.TRAIN:
        return DXO(DataKind.METRICS, data={**result.metrics, **result.supplementary}, meta=meta)
    # NVFLARE's own controllers weight by this key.
    meta[MetaKey.NUM_STEPS_CURRENT_ROUND] = result.num_examples
    return DXO(
        DataKind.WEIGHT_DIFF if result.params_type == DIFF else DataKind.WEIGHTS,
        data=dict(result.arrays or {}),
        meta={**meta, MetaKey.INITIAL_METRICS: dict(result.metrics)},
    )


def _failed(failure: Failure) -> Shareable:
    reply = make_reply(ReturnCode.EXECUTION_EXCEPTION)
    put_failure(reply, failure)
    return reply
