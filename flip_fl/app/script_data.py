"""A trust's data for a script: it asks its site, which holds the key, and never the services themselves.

Only what goes to the script is pickled (the cohort); what comes from it is read as text.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from flip_fl.app.child import error_answer
from flip_fl.app.session import Session
from flip_fl.app.site import SiteSpec
from flip_fl.app.tensors import Arrays
from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.data.images import accession_numbers
from flip_fl.errors import FlipError
from flip_fl.http import HttpConnectionError, HttpStatusError, connection_error, status_error
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    from pandas import DataFrame

Answer = tuple[dict[str, Any], Arrays]
Ask = Callable[..., Answer]
# Questions that an app may have open: each is a thread of the site's process.
MAX_OPEN = 256
_FRAME = "frame"
_OTHER_PROJECT = "a script may only ask for data of its own job's project"
_OTHER_STUDY = "a script may only ask for studies of its own job's cohort"
_OTHER_QUERY = "a script may only ask for the cohort of its own job's query"


def answered(head: Mapping[str, Any], spec: SiteSpec, session: Session) -> Answer:
    """The answer to a script's question. Never raises: errors are told as they would be raised in the script."""
    try:
        if head.get("project") != spec.project_id:
            raise ValueError(_OTHER_PROJECT)
        own = not spec.query or session.source.images_root is None
        if head.get("asked") == "dataframe" and not own and head.get("query") != spec.query:
            raise ValueError(_OTHER_QUERY)
        named = head.get("accession_id")
        # A developer's own folders have no cohort that says whose they are.
        if named is not None and session.source.images_root is not None and named not in cohort_of(spec, session):
            raise ValueError(_OTHER_STUDY)
        return _answer(head, spec.project_id, session)
    except Exception as error:
        return told_error(error), {}


def cohort_of(spec: SiteSpec, session: Session) -> frozenset[str]:
    """The accession numbers of the job's cohort, asked for once. Raises what the data-access service answers."""
    if session.cohort_studies is None:
        frame = session.source.dataframe(spec.project_id, spec.query)
        names, session.cohort_unnamed = accession_numbers(frame) if ACCESSION_ID in frame.columns else ([], 0)
        session.cohort_studies = frozenset(names)
    return session.cohort_studies


def told_error(error: Exception) -> dict[str, Any]:
    """``error`` of a source as ``AskedSource`` raises it in the process that asked."""
    if isinstance(error, HttpStatusError):
        place, _, _ = str(error).rpartition(": HTTP ")
        return {"error": "status", "place": place, "status": error.status_code, "detail": error.detail}
    if isinstance(error, HttpConnectionError):
        place, _, _ = str(error).rpartition(": no answer")
        return {"error": "connection", "place": place, "cause": error.cause, "answered": error.answered}
    if isinstance(error, FlipError):
        return {"error": "flip", "told": error_answer(error)["error"]}
    if isinstance(error, ValueError):
        own = (
            str(error)
            if str(error) in (_OTHER_PROJECT, _OTHER_QUERY, _OTHER_STUDY)
            else "the site refuses what it was asked for"
        )
        return {"error": "value", "text": own}
    return {"error": "other", "text": f"the site cannot give it ({type(error).__name__})"}


def _answer(head: Mapping[str, Any], project: str, session: Session) -> Answer:
    asked, source = head.get("asked"), session.source
    if asked == "dataframe":
        frame = source.dataframe(project, str(head["query"]))
        session.cohort_rows = max(len(frame), session.cohort_rows or 0)
        return {}, {_FRAME: np.frombuffer(pickle.dumps(frame), dtype=np.uint8)}
    name = str(head["accession_id"])
    if asked == "resources":
        types = [ResourceType(kind) for kind in head["types"]]
        folders = _folders(session, project, name, types)
        return {"folders": {kind.value: str(folder) for kind, folder in folders.items()}}, {}
    if asked == "add_resource":
        files = [str(file) for file in head["files"]]
        source.add_resource(project, name, str(head["scan_id"]), str(head["resource_id"]), files)
        return {}, {}
    raise ValueError("no such question")


def _folders(session: Session, project: str, name: str, types: list[ResourceType]) -> dict[ResourceType, Path]:
    """Where a study lies; it is the job's from before it is asked for, so that it is removed with the job."""
    if session.index is None:
        return session.source.resources(project, name, types)
    session.index.claim(project, [name])
    known = session.index.of(project, types)
    known.asking(name)
    try:
        folders = session.source.resources(project, name, types)
    except (HttpStatusError, FlipError):
        known.found(name, {})
        raise
    known.found(name, folders)
    return folders


class AskedSource:
    """A ``Source`` in the script's process: ``ask(asked, **facts)`` gets the site's answer."""

    images_root: Path | None = None
    state_dir: Path | None = None
    in_flight = 1

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def dataframe(self, project_id: str, query: str) -> DataFrame:
        _, arrays = self._checked("dataframe", project=project_id, query=query)
        frame: DataFrame = pickle.loads(arrays[_FRAME].tobytes())
        return frame

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        kinds = [kind.value for kind in types]
        head, _ = self._checked("resources", project=project_id, accession_id=accession_id, types=kinds)
        return {ResourceType(kind): Path(folder) for kind, folder in head["folders"].items()}

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: Sequence[str]
    ) -> None:
        facts = {"accession_id": accession_id, "scan_id": scan_id, "resource_id": resource_id, "files": list(files)}
        self._checked("add_resource", project=project_id, **facts)

    def _checked(self, asked: str, **facts: Any) -> Answer:
        head, arrays = self._ask(asked, **facts)
        if "error" in head:
            self.raised(head)
        return head, arrays

    @staticmethod
    def raised(head: Mapping[str, Any]) -> NoReturn:
        """Raise the error that an answer tells."""
        kind = head["error"]
        method, _, route = str(head.get("place", "")).partition(" ")
        if kind == "status":
            raise status_error(method, route, int(head["status"]), head["detail"])
        if kind == "connection":
            raise connection_error(method, route, str(head["cause"]), answered=bool(head["answered"]))
        if kind == "flip":
            told = head["told"]
            raise FlipError(told["code"], where=told["where"], why=told["why"], fix=told["fix"], **told["facts"])
        raise ValueError(head["text"]) if kind == "value" else RuntimeError(head["text"])
