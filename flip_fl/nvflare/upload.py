"""The last workflow of a job: the results are delivered, reported, and the job's own copies removed."""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.places import custom_dir
from flip_fl.nvflare.protocol import REPORTER_ID
from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.results.delivery import Delivery, DeliveryStopped, deliver, tidy, upload_problem
from flip_fl.results.model_folder import ModelFolder


class UploadResults(Controller):
    """Builds the bundle from the persistor's own inventory and stores it.

    A run is a success only when its model loads from the bundle and the stored bytes are the bundle's. A bundle that
    cannot be built, or does not load, is ERROR; one that cannot be stored is RESULTS_UPLOAD_FAILED. Without a hub (in
    development) the bundle stays in the state folder, beside the outbox.
    """

    def __init__(self, persistor_id: str = "persistor", reporter_id: str = REPORTER_ID) -> None:
        super().__init__()
        self.persistor_id = persistor_id
        self.reporter_id = reporter_id

    def start_controller(self, fl_ctx: FLContext) -> None:
        """Nothing to prepare."""

    def stop_controller(self, fl_ctx: FLContext) -> None:
        """Nothing is held."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Tidy up at every orderly end: after a failure or an abort this workflow is never reached."""
        super().handle_event(event_type, fl_ctx)
        if event_type != EventType.ABOUT_TO_END_RUN:
            return
        engine = fl_ctx.get_engine()
        reporter, persistor = engine.get_component(self.reporter_id), engine.get_component(self.persistor_id)
        if isinstance(reporter, FlipReporter) and isinstance(persistor, ArrayPersistor) and reporter.in_run:
            for problem in tidy([_work_folder(fl_ctx), persistor.folder_path(fl_ctx)]):
                reporter.reporting.reporter.log(problem, success=False)

    def process_result_of_unknown_task(
        self, client: Client, task_name: str, client_task_id: str, result: Shareable, fl_ctx: FLContext
    ) -> None:
        """A late reply of an earlier workflow changes nothing any more."""
        self.log_info(fl_ctx, f"{client.name} answered {task_name} after the end of the rounds")

    def control_flow(self, abort_signal: Signal, fl_ctx: FLContext) -> None:
        engine = fl_ctx.get_engine()
        reporter, persistor = engine.get_component(self.reporter_id), engine.get_component(self.persistor_id)
        if not isinstance(reporter, FlipReporter) or not isinstance(persistor, ArrayPersistor):
            self.system_panic(f"the job lacks {self.reporter_id} or {self.persistor_id}", fl_ctx)
            return
        lifecycle = reporter.reporting.lifecycle
        this = Delivery(
            models=ModelFolder(persistor.folder_path(fl_ctx)),
            app_dir=custom_dir(fl_ctx),
            model_id=reporter.run_model_id,
            round=reporter.round,
            work=_work_folder(fl_ctx),
            state_dir=reporter.state_dir,
            settings=reporter.settings,
        )
        try:
            stored = deliver(this, lambda: bool(abort_signal.triggered))
        except DeliveryStopped:
            return  # the reporter notes the abort
        except FlipError as error:
            self.system_panic(error.sentence, fl_ctx)
        except ResultsUploadError as error:
            lifecycle.upload_failed(upload_problem(error))
        else:
            lifecycle.uploaded(stored.address, stored.sha256, stored.size_bytes, reporter.round)


def _work_folder(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / "flip_results"
