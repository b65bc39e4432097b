"""The two clients of every job type: one that calls FLIP's services, one for a developer's machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flip_fl.core.base import (
    FLIPBase,
    ModelId,
    check_report_arguments,
    check_study_arguments,
    check_text,
    check_upload_arguments,
    client_words,
    parse_model_id,
    require_model_id,
)
from flip_fl.core.journal import Journal
from flip_fl.core.measurement import Measurement, read_measurement, read_status
from flip_fl.data.sources.folder import FolderSource
from flip_fl.data.sources.trust import TrustSource
from flip_fl.errors import FlipError, ResultsUploadError, printable
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.reporting.hub_client import HubClient
from flip_fl.results.s3 import ResultsStore
from flip_fl.results.sending import send
from flip_fl.results.zipped import size_of, zip_chunks
from flip_fl.settings import ClientSettings, DevSettings, ServerSettings, load, resolve_role
from flip_fl.values import ModelStatus, ResourceType, Role

if TYPE_CHECKING:
    from pandas import DataFrame

    from flip_fl.data.sources.base import Source

_NO_STATUS = "Invalid model ID: {}, cant update model status"
_NO_EXCEPTION = "Invalid model ID: {}, unable to send exception"
_NO_EVENT = "Invalid model ID: {}, unable to send event"
_NO_RESULTS = "Invalid model ID: {}, unable to upload results"
_UNSENT = (HttpStatusError, HttpConnectionError, ValueError, TypeError)


class FLIPStandardProd(FLIPBase):
    """Calls the hub (role server) or the trust's services (role client); each call is one synchronous attempt.

    The role is ``role``, else ``FLIP_ROLE``, else that of the one key present; settings come from ``settings_file``,
    else the environment. Raises ``FlipError`` E0401, E0404, E0406 for settings that are missing, malformed or
    ambiguous, and E0509 for a server without the extra ``s3``: it would fail after training.
    """

    def __init__(self, *, role: Role | str | None = None, settings_file: Path | None = None) -> None:
        super().__init__()
        self.role = resolve_role(settings_file, role)
        self._source: Source | None = None
        self._hub: HubClient | None = None
        if self.role is Role.CLIENT:
            self._source = TrustSource(load(ClientSettings, settings_file))
            return
        settings = load(ServerSettings, settings_file)
        self._store = ResultsStore(settings)
        self._hub = HubClient(settings)

    def get_dataframe(self, project_id: str, query: str) -> DataFrame:
        source = self._as_client("get_dataframe")
        check_text(project_id=project_id, query=query)
        return source.dataframe(project_id, query)

    def get_resources(
        self, project_id: str, accession_id: str, resource_types: Sequence[ResourceType]
    ) -> dict[ResourceType, Path]:
        source = self._as_client("get_resources")
        types = check_study_arguments(project_id, accession_id, resource_types)
        return source.resources(project_id, accession_id, types)

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: list[str]
    ) -> None:
        source = self._as_client("add_resource")
        check_upload_arguments(project_id, accession_id, scan_id, resource_id, files)
        source.add_resource(project_id, accession_id, scan_id, resource_id, files)

    def update_status(self, model_id: ModelId, new_model_status: ModelStatus | str) -> bool:
        hub = self._as_server("update_status")
        model = require_model_id(model_id, _NO_STATUS)
        status = read_status(new_model_status)
        try:
            hub.put_status(model, status)
        except _UNSENT as error:
            self.logger.error("status %s of model %s is not set: %s", status, model, error)
            return False
        return True

    def send_metrics(
        self,
        client_name: str,
        model_id: ModelId,
        label: str,
        value: float,
        round: int,
        x_value: float | None = None,
        x_label: str | None = None,
    ) -> None:
        hub = self._as_server("send_metrics")
        try:
            model = require_model_id(model_id, "the model id is no UUID")
            metric = read_measurement(client_name, label, value, round, x_value, x_label)
            if metric.problem is not None:
                self.logger.warning("%s (%s, model %s)", metric.problem, printable(metric.client), model)
                hub.post_log(model, client=metric.client, log=metric.problem, success=False)
            else:
                _post_metric(hub, model, metric)
        except _UNSENT as error:
            self.logger.error(
                "a metric of %s, model %s, is not sent: %s", client_words(client_name), printable(model_id), error
            )

    def send_event(
        self,
        model_id: ModelId,
        event_type: str,
        client_name: str | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        hub = self._as_server("send_event")
        model = require_model_id(model_id, _NO_EVENT)
        try:
            hub.post_event(model, event_type=event_type, client=client_name, global_round=global_round, details=details)
        except _UNSENT as error:
            self.logger.error("an event of %s, model %s, is not sent: %s", client_words(client_name), model, error)

    def send_handled_exception(self, formatted_exception: str, client_name: str | None, model_id: ModelId) -> None:
        hub = self._as_server("send_handled_exception")
        check_report_arguments(formatted_exception, client_name)
        model = require_model_id(model_id, _NO_EXCEPTION)
        try:
            hub.post_log(model, client=client_name, log=formatted_exception, success=False)
        except _UNSENT as error:
            self.logger.error("an exception of %s, model %s, is not sent: %s", client_words(client_name), model, error)

    def upload_results_to_s3(self, results_folder: str | Path, model_id: ModelId) -> None:
        self._as_server("upload_results_to_s3")
        model = require_model_id(model_id, _NO_RESULTS)
        folder = Path(results_folder)
        try:
            stored = send(self._store, lambda: zip_chunks(folder), model, size_bytes=size_of(folder))
        except ResultsUploadError as error:
            self.logger.error("results of model %s are not uploaded: %s", model, type(error.__cause__).__name__)
            raise
        self.logger.info("results of model %s: %s (%d bytes)", model, stored.address, stored.size_bytes)

    def _as_client(self, operation: str) -> Source:
        if self._source is None:
            raise self._wrong_role(operation, Role.CLIENT, "call it in a process of the trust")
        return self._source

    def _as_server(self, operation: str) -> HubClient:
        if self._hub is None:
            raise self._wrong_role(operation, Role.SERVER, "return the value, or log it with site.log(...)")
        return self._hub

    def _wrong_role(self, operation: str, needed: Role, suggestion: str) -> FlipError:
        return FlipError(
            "E0407", operation=operation, needed=f"FL {needed}", role=f"FL {self.role}", suggestion=suggestion
        )


class FLIPStandardDev(FLIPBase):
    """Reads ``DEV_DATAFRAME`` and ``DEV_IMAGES_DIR``; what production would send is logged, and nothing is deleted.

    With ``FLIP_STATE_DIR`` set, as in a simulated run, what is logged is also kept there (see ``core.journal``).
    A model id that is no UUID is one warning: templates use readable ids.
    """

    def __init__(self, *, settings_file: Path | None = None) -> None:
        super().__init__()
        self._settings_file = settings_file
        self._warned: set[str] = set()

    def get_dataframe(self, project_id: str, query: str) -> DataFrame:
        check_text(project_id=project_id, query=query)
        return self._source.dataframe(project_id, query)

    def get_resources(
        self, project_id: str, accession_id: str, resource_types: Sequence[ResourceType]
    ) -> dict[ResourceType, Path]:
        types = check_study_arguments(project_id, accession_id, resource_types)
        return self._source.resources(project_id, accession_id, types)

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: list[str]
    ) -> None:
        check_upload_arguments(project_id, accession_id, scan_id, resource_id, files)
        self._source.add_resource(project_id, accession_id, scan_id, resource_id, files)

    def update_status(self, model_id: ModelId, new_model_status: ModelStatus | str) -> bool:
        status = read_status(new_model_status)
        self.logger.info("model %s: status %s", self._named(model_id), status)
        self._keep(model_id, "status", status=status)
        return True

    def send_metrics(
        self,
        client_name: str,
        model_id: ModelId,
        label: str,
        value: float,
        round: int,
        x_value: float | None = None,
        x_label: str | None = None,
    ) -> None:
        model = self._named(model_id)
        try:
            metric = read_measurement(client_name, label, value, round, x_value, x_label)
        except _UNSENT as error:
            self.logger.error(
                "a metric of %s, model %s, would not be sent: %s", client_words(client_name), model, error
            )
            return
        if metric.problem is not None:
            self.logger.warning("%s (%s, model %s)", metric.problem, printable(metric.client), model)
            self._keep(model_id, "log", client=metric.client, log=metric.problem, success=False)
            return
        words = (printable(metric.client), printable(metric.label), metric.result, metric.global_round, model)
        self.logger.info("%s: %s = %g in round %d (model %s)", *words)
        fields = {name: getattr(metric, name) for name in ("client", "global_round", "label", "result")}
        self._keep(model_id, "metric", **fields, x_value=metric.x_value, x_label=metric.x_label)

    def send_event(
        self,
        model_id: ModelId,
        event_type: str,
        client_name: str | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        words = (self._named(model_id), printable(event_type), client_words(client_name), global_round)
        self.logger.info("model %s: event %s of %s, round %s", *words)
        fields = {"client": client_name, "global_round": global_round, "details": details}
        self._keep(model_id, "event", event_type=event_type, **fields)

    def send_handled_exception(self, formatted_exception: str, client_name: str | None, model_id: ModelId) -> None:
        check_report_arguments(formatted_exception, client_name)
        # The text may quote a row of the data: its length is all that a log may hold.
        words = (self._named(model_id), client_words(client_name), len(formatted_exception.splitlines()))
        self.logger.error("model %s: an exception of %s (%d lines) would be sent", *words)
        self._keep(model_id, "log", client=client_name, log=formatted_exception, success=False)

    def upload_results_to_s3(self, results_folder: str | Path, model_id: ModelId) -> None:
        text = "results are not uploaded in development"
        self.logger.info("model %s: %s", self._named(model_id), text)
        self._keep(model_id, "log", log=text)

    def cleanup(self, path: str | Path) -> None:
        """Deletes nothing: a developer's folders are no job's."""
        self.logger.info("cleanup: nothing is deleted in development")

    @cached_property
    def _settings(self) -> DevSettings:
        return load(DevSettings, self._settings_file)

    @cached_property
    def _source(self) -> FolderSource:
        return FolderSource(self._settings, self.logger)

    def _named(self, model_id: object) -> str:
        model = parse_model_id(model_id)
        if model is not None:
            return str(model)
        name = printable(model_id)
        if name not in self._warned:
            self._warned.add(name)
            self.logger.warning("model id %s is no UUID: a hub would refuse it", name)
        return name

    def _keep(self, model_id: object, kind: str, **fields: Any) -> None:
        try:
            Journal(self._settings.state_dir).add(self._named(model_id), kind, **fields)
        except (ValueError, TypeError, OSError) as error:
            # A refusal of pydantic's quotes what it refuses.
            self.logger.error("a %s is not kept for the run's story: %s", kind, type(error).__name__)


def _post_metric(hub: HubClient, model: UUID, metric: Measurement) -> None:
    hub.post_metric(
        model,
        client=metric.client,
        global_round=metric.global_round,
        label=metric.label,
        result=metric.result,
        x_value=metric.x_value,
        x_label=metric.x_label,
    )
