"""What every FLIP client offers, in production and in development."""

from __future__ import annotations

import logging
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID

from flip_fl.errors import CleanupError, FlipError, printable
from flip_fl.values import ModelStatus, ResourceType

if TYPE_CHECKING:
    from pandas import DataFrame

ModelId = str | UUID


class FLIPBase(ABC):
    """The operations of a FLIP client.

    A client process (in a trust) may use ``get_dataframe``, ``get_by_accession_number``, ``get_resources`` and
    ``add_resource``; a server process ``update_status``, ``send_metrics``, ``send_event``,
    ``send_handled_exception`` and ``upload_results_to_s3``; both may use ``cleanup``. In production, an operation of
    the other role is ``FlipError`` E0407; in development there are no roles. Arguments are checked before any call.
    """

    def __init__(self) -> None:
        self.logger = _logger(type(self).__name__)

    @abstractmethod
    def get_dataframe(self, project_id: str, query: str) -> DataFrame:
        """The project's cohort, a row per study or subject.

        Raises ``TypeError`` for arguments that are no text, and what the trust's service answers:
        ``requests.HTTPError`` or ``requests.ConnectionError``.
        """

    def get_by_accession_number(
        self,
        project_id: str,
        accession_id: str,
        resource_type: ResourceType | list[ResourceType] = ResourceType.NIFTI,
    ) -> Path:
        """The folder with a study's files; of several types the last one's (``get_resources`` gives each).

        Raises ``TypeError``, ``ValueError`` for an empty list, ``FlipError`` E0903 for an accession number with
        slashes or dots that climb, and what the service answers as ``get_dataframe``.
        """
        types = [resource_type] if isinstance(resource_type, ResourceType) else _checked_types(resource_type)
        return self.get_resources(project_id, accession_id, types)[types[-1]]

    @abstractmethod
    def get_resources(
        self, project_id: str, accession_id: str, resource_types: Sequence[ResourceType]
    ) -> dict[ResourceType, Path]:
        """The folder of each type of a study. Raises as ``get_by_accession_number``."""

    @abstractmethod
    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: list[str]
    ) -> None:
        """Store ``files`` (relative to the net's upload folder) as a resource of a scan.

        Raises ``TypeError``, ``FlipError`` E0704 for a file that leads out of that folder, and what the service
        answers.
        """

    @abstractmethod
    def update_status(self, model_id: ModelId, new_model_status: ModelStatus | str) -> bool:
        """Set the model's status at the hub; True if the hub took it. A hub that fails is logged, not raised.

        Raises ``ValueError`` for a model id that is no UUID and for a status that does not exist.
        """

    @abstractmethod
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
        """Send one number that a kit slot measured. Whatever fails is logged. NaN becomes a failure row."""

    def send_metrics_value(self, label: str, value: float, fl_ctx: Any, round: int | None = None) -> None:
        """``send_metrics`` in the words of existing NVFLARE apps: site and job are those of ``fl_ctx``. Never raises.

        In production a trust's process calls no hub: there the number is logged as not sent.
        """
        try:
            name, job = fl_ctx.get_identity_name(), fl_ctx.get_job_id()
            self.send_metrics(name, job, label, value, 0 if round is None else round)
        except (AttributeError, FlipError) as error:
            words = error.what if isinstance(error, FlipError) else "fl_ctx is no context of NVFLARE's"
            self.logger.error("a metric is not sent (%s): log it with nvflare.client.tracking.SummaryWriter", words)

    @abstractmethod
    def send_event(
        self,
        model_id: ModelId,
        event_type: str,
        client_name: str | None = None,
        global_round: int | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Send a typed event. Raises ``ValueError`` for a model id that is no UUID; whatever else fails is logged."""

    @abstractmethod
    def send_handled_exception(self, formatted_exception: str, client_name: str | None, model_id: ModelId) -> None:
        """Send a failure report. A hub that fails is logged.

        Raises ``TypeError`` for what is no text (``client_name`` may be None) and ``ValueError`` for a model id.
        """

    @abstractmethod
    def upload_results_to_s3(self, results_folder: str | Path, model_id: ModelId) -> None:
        """Store the folder's contents as one zip. Raises ``ValueError`` (model id) and ``ResultsUploadError``."""

    def cleanup(self, path: str | Path) -> None:
        """Remove the tree at ``path``. Raises ``CleanupError`` when it cannot be removed, the cause chained."""
        try:
            _refuse_dear(path)
            shutil.rmtree(path)
        except (OSError, ValueError) as error:
            raise CleanupError(path) from error


def check_text(**arguments: object) -> None:
    """Raises ``TypeError`` naming the first argument that is not text. Its value is never shown."""
    for name, value in arguments.items():
        if not isinstance(value, str):
            raise TypeError(f"{name} must be a str, not {type(value).__name__}")


def check_study_arguments(project_id: object, accession_id: object, resource_types: object) -> list[ResourceType]:
    """The resource types as a list. Raises ``TypeError`` for wrong kinds and ``ValueError`` for none."""
    check_text(project_id=project_id, accession_id=accession_id)
    return _checked_types(resource_types)


def check_upload_arguments(
    project_id: object, accession_id: object, scan_id: object, resource_id: object, files: object
) -> None:
    """Raises ``TypeError`` for the first of the five that is of a wrong kind."""
    check_text(project_id=project_id, accession_id=accession_id, scan_id=scan_id, resource_id=resource_id)
    if not isinstance(files, list | tuple) or not all(isinstance(file, str) for file in files):
        raise TypeError("files must be a list of str")


def parse_model_id(model_id: object) -> UUID | None:
    """The model's id, or None for what is no UUID: it becomes part of addresses and keys."""
    if isinstance(model_id, UUID):
        return model_id
    try:
        return UUID(model_id) if isinstance(model_id, str) else None
    except ValueError:
        return None


def check_report_arguments(formatted_exception: object, client_name: object) -> None:
    """Raises ``TypeError`` for a report that is not text, and for a client's name that is neither text nor None."""
    check_text(formatted_exception=formatted_exception)
    if client_name is not None:
        check_text(client_name=client_name)


def require_model_id(model_id: object, refusal: str) -> UUID:
    """The model's id. Raises ``ValueError``: ``refusal`` with the id as it was given."""
    model = parse_model_id(model_id)
    if model is None:
        raise ValueError(refusal.format(printable(model_id)))
    return model


def client_words(client_name: object) -> str:
    """A client as logs name it."""
    return "the server" if client_name is None else printable(client_name)


def _checked_types(types: object) -> list[ResourceType]:
    if not isinstance(types, list | tuple) or not all(isinstance(kind, ResourceType) for kind in types):
        raise TypeError(
            f"resource_type must be a ResourceType (ResourceType.DICOM) or a list of them, not {type(types).__name__}"
        )
    if not types:
        raise ValueError("resource_type must name at least one resource type, got an empty list")
    return list(types)


def _refuse_dear(path: str | Path) -> None:
    # An unset variable makes Path("") the working directory; a missing suffix makes it everything.
    target = Path(path).resolve()
    dear = (Path.cwd(), Path.home())
    if not str(path).strip() or any(target == place or target in place.parents for place in dear):
        raise ValueError("refused: the working directory, the home folder, or a folder above them")


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to whatever ``sys.stderr`` is at the time: an engine that redirects it later gets these lines, too."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("the stream is sys.stderr")


def _logger(name: str) -> logging.Logger:
    logger = logging.getLogger(name)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    if not any(isinstance(handler, _StandardError) for handler in logger.handlers):
        handler = _StandardError()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    return logger
