"""The last workflow of a job: bundle the results, store them, check what is stored, report where, tidy up."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nvflare.apis.client import Client
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_context import FLContext
from nvflare.apis.impl.controller import Controller
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal

from flip_fl.app import weights
from flip_fl.app.arrays import read_arrays
from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.nvflare.persistor import GLOBAL_MODEL, ArrayPersistor, custom_dir
from flip_fl.nvflare.protocol import REPORTER_ID
from flip_fl.nvflare.reporter import FlipReporter
from flip_fl.results import bundle
from flip_fl.results.s3 import ResultsStore, Stored
from flip_fl.results.verify import verify
from flip_fl.settings import ServerSettings

PIECE_BYTES = 1 << 20


class Aborted(Exception):
    """The run was stopped while its results were being stored."""


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
            self._tidy([_work_folder(fl_ctx), persistor.folder_path(fl_ctx)], reporter)

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
        work = _work_folder(fl_ctx)
        work.mkdir(mode=0o700)
        try:
            zipped = self._bundle(persistor, work, reporter, abort_signal, fl_ctx)
            self._store(zipped, reporter, abort_signal)
        except Aborted:
            return  # the reporter notes the abort
        except FlipError as error:
            self.system_panic(f"{error.what}{f' ({error.why})' if error.why else ''}", fl_ctx)
        except ResultsUploadError as error:
            if isinstance(error.__cause__, Aborted):
                return
            cause = type(error.__cause__).__name__ if error.__cause__ else "no cause given"
            reporter.reporting.lifecycle.upload_failed(f"{error} ({cause})")

    def _bundle(
        self, persistor: ArrayPersistor, work: Path, reporter: FlipReporter, abort_signal: Signal, fl_ctx: FLContext
    ) -> Path:
        """The verified zip. Raises ``FlipError`` E0702 when the model is missing or does not load."""
        app_dir = custom_dir(fl_ctx)
        inventory = persistor.get_model_inventory(fl_ctx)
        if GLOBAL_MODEL not in inventory:
            raise FlipError("E0702", bundle="results", problem="the server has no global model", suggestion="")
        contents = work / "contents"
        contents.mkdir()
        models = {contents / f"{name}.pt": read_arrays(Path(each.location)) for name, each in inventory.items()}
        weights.export_models(app_dir, models)
        _go_on(abort_signal)
        history = persistor.history(fl_ctx)
        (contents / "metrics.json").write_text(json.dumps(history, indent=2), encoding="utf-8")
        _write_cross_validation(history, contents)
        zipped = work / "results.zip"
        model_id = str(reporter.run_model_id)
        bundle.build(contents, zipped, app_dir=app_dir, model_id=model_id, global_round=reporter.round)
        _go_on(abort_signal)
        verify(zipped)
        return zipped

    def _store(self, zipped: Path, reporter: FlipReporter, abort_signal: Signal) -> None:
        _go_on(abort_signal)
        if reporter.settings is None:
            kept = reporter.state_dir / "results" / f"{reporter.run_model_id}.zip"
            kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.move(zipped, kept)
            size, digest = bundle.fingerprint(kept)
            stored = Stored(str(kept), size, digest)
        else:
            stored = self._upload(zipped, reporter.settings, reporter, abort_signal)
        _go_on(abort_signal)
        reporter.reporting.lifecycle.uploaded(stored.address, stored.sha256, stored.size_bytes, reporter.round)

    def _upload(self, zipped: Path, settings: ServerSettings, reporter: FlipReporter, abort_signal: Signal) -> Stored:
        """Store the bundle and read it back. Raises ``ResultsUploadError`` when it is not what was sent."""
        store = ResultsStore(settings)
        stored = store.upload(lambda: _pieces(zipped, abort_signal), reporter.run_model_id)
        try:
            fetched = store.download(stored.address, zipped.with_suffix(".fetched"))
        except FlipError as error:
            raise ResultsUploadError from error
        if (fetched.size_bytes, fetched.sha256) != bundle.fingerprint(zipped):
            raise ResultsUploadError("the stored results are not the bytes that were sent")
        return stored

    def _tidy(self, folders: list[Path], reporter: FlipReporter) -> None:
        """Remove this job's local copies. What cannot be removed is said beside the outcome and never changes it."""
        for folder in folders:
            try:
                if folder.exists():
                    shutil.rmtree(folder)
            except OSError as error:
                text = f"clean-up: {folder.name} could not be removed ({error.strerror})"
                reporter.reporting.reporter.log(text, success=False)


def _write_cross_validation(history: dict[str, Any], contents: Path) -> None:
    """The last round's validation of the global model, in NVFLARE's form: ``{client: {SRV_<model>: {…}}}``."""
    rounds = history.get("validate") or {}
    if not rounds:
        return
    last = rounds[max(rounds, key=int)]
    target = contents / "cross_site_val" / "cross_val_results.json"
    target.parent.mkdir()
    scores = {slot: {f"SRV_{GLOBAL_MODEL}.pt": metrics} for slot, metrics in last.items()}
    target.write_text(json.dumps(scores, indent=2), encoding="utf-8")


def _work_folder(fl_ctx: FLContext) -> Path:
    return Path(fl_ctx.get_engine().get_workspace().get_run_dir(fl_ctx.get_job_id())) / "flip_results"


def _pieces(path: Path, abort_signal: Signal) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            _go_on(abort_signal)
            yield piece


def _go_on(abort_signal: Signal) -> None:
    if abort_signal.triggered:
        raise Aborted
