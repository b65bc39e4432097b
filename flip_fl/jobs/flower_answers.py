"""What ``flwr … --format json`` says, read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from flip_fl.app.redact import scrub
from flip_fl.app.vocabulary import Vocabulary
from flip_fl.jobs.decide import EngineRun, EngineState
from flip_fl.jobs.engine import EngineJob

MAX_PROBLEM_CHARS = 200
_STATES: Mapping[str, EngineState] = {
    "pending": EngineState.WAITING,
    "starting": EngineState.WAITING,
    "running": EngineState.RUNNING,
    "finished:completed": EngineState.COMPLETED,
    "finished:failed": EngineState.FAILED,
    "finished:stopped": EngineState.STOPPED,
}
_UNAVAILABLE = "Connection to the SuperLink is unavailable"
_NO_SUCH_RUN = re.compile(r"Run ID (\d+ )?not found")
_NO_WORDS = ("", "N/A")
# Flower's own sentences. Anything else was said by an exception, and its text may quote what the app had in hand.
_OWN_WORDS = {
    "No heartbeat received from the task": "the ServerApp's process was lost: no heartbeat received from the task",
    "Task failed because the run expired": "the run expired",
}
_EXCEPTION = re.compile(r"(?P<who>ServerApp|Simulation) failed with exception: (?P<text>.*)", re.DOTALL)
# The version of a job that flip-fl submits: whose run it is, and what was submitted.
_VERSION = re.compile(r"(?P<version>[0-9.]+)\+m(?P<model>[0-9a-f]{32})\.d(?P<digest>[0-9a-f]+)")


def version_of(model_id: UUID, digest: str) -> str:
    """The version that a job's project file has, so that whoever lists runs knows whose they are."""
    return f"0.1.0+m{model_id.hex}.d{digest}"


def read_job(row: Mapping[str, Any]) -> EngineJob:
    """A run as ``flwr ls`` lists it."""
    version = _VERSION.fullmatch(str(row.get("fab-version")))
    return EngineJob(
        job=str(row["run-id"]),
        state=_STATES.get(str(row.get("status")), EngineState.REFUSED),
        details=details_words(str(row.get("status-details") or "")),
        model_id=UUID(version["model"]) if version else None,
        digest=version["digest"] if version else None,
        submitted_at=_time(row.get("pending-at")),
        seconds=_elapsed(row),
    )


def problem_of(document: Mapping[str, Any]) -> str | None:
    """Why a command failed; None when it did not."""
    return None if document.get("success") is True else _last_line(str(document.get("error-message", "")))


def is_away(problem: str) -> bool:
    """Whether that means that nobody answers at the SuperLink's address."""
    return _UNAVAILABLE in problem


def read_answer(text: str, run: str) -> EngineRun:
    """What ``flwr ls --format json`` says of ``run``. Never raises: an answer that is none is ``REFUSED``.

    Its exit code says nothing: it is 0 when the SuperLink could not be reached, too.
    """
    document = document_of(text)
    if document is None:
        return EngineRun(EngineState.REFUSED, "flwr ls gave no answer that can be read")
    if document.get("success") is not True:
        problem = str(document.get("error-message", ""))
        if _NO_SUCH_RUN.search(problem):
            return EngineRun(EngineState.UNKNOWN, "Run ID not found")
        away = _UNAVAILABLE in problem
        return EngineRun(EngineState.UNREACHABLE if away else EngineState.REFUSED, _last_line(problem))
    runs = document.get("runs")
    for row in runs if isinstance(runs, list) else []:
        if isinstance(row, dict) and str(row.get("run-id")) == run:
            state = _STATES.get(str(row.get("status")))
            if state is None:
                return EngineRun(EngineState.REFUSED, f"flwr ls tells a status that is not known: {row.get('status')}")
            return EngineRun(state, details_words(str(row.get("status-details") or "")))
    return EngineRun(EngineState.UNKNOWN, "Run ID not found")


def details_words(details: str) -> str:
    """A run's ``status-details`` as they may be shown: Flower's own words, an exception's without its values."""
    text = details.strip()
    if text in _NO_WORDS:
        return ""
    if text in _OWN_WORDS:
        return _OWN_WORDS[text]
    raised = _EXCEPTION.fullmatch(text)
    names = Vocabulary.of_app(None)
    if raised is None:
        return scrub(text, names)
    return f"{raised['who']} failed with exception: {scrub(raised['text'], names)}"


def document_of(text: str) -> dict[str, Any] | None:
    """The JSON object in what a command printed; None without one."""
    begin = text.find("{")
    if begin < 0:
        return None
    try:
        document, _ = json.JSONDecoder().raw_decode(text[begin:])
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _last_line(problem: str) -> str:
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    return lines[-1][:MAX_PROBLEM_CHARS] if lines else "flwr ls failed without a word"


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None


def _elapsed(row: Mapping[str, Any]) -> float | None:
    """Seconds that the run has run; None before it began."""
    value = row.get("elapsed")
    return float(value) if isinstance(value, int | float) and value else None
