"""Runs of a Flower deployment, looked up with Flower's own command line: ``flwr ls``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_fl.app.redact import scrub
from flip_fl.app.vocabulary import Vocabulary
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.jobs.decide import EngineRun, EngineState

COMMAND_TIMEOUT_S = 30.0
MAX_PROBLEM_CHARS = 200
# The command must neither fetch anything nor call anybody but the SuperLink; and its answer is read by a program.
_ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "NO_COLOR": "1",
    "TERM": "dumb",
    "PYTHONIOENCODING": "utf-8",
}
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


class FlowerRuns:
    """The runs of the SuperLink behind ``connection``, a name in Flower's own config.toml.

    Raises ``FlipError`` E0509 when Flower is not installed, E0543 when config.toml has no such connection.
    """

    engine = "Flower"
    server = "the SuperLink"

    def __init__(self, connection: str, *, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self.connection = connection
        self._timeout_s = timeout_s
        self._program = _program()
        check_connection(connection)

    def look(self, run: str) -> EngineRun:
        """``flwr ls <connection> --run-id <run>``, once, within the time-out."""
        command = [str(self._program), "ls", self.connection, "--run-id", run, "--format", "json"]
        environment = {**scrubbed(), **_ENVIRONMENT}
        environment.pop("FORCE_COLOR", None)
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return EngineRun(EngineState.UNREACHABLE, f"flwr ls took more than {self._timeout_s:g} s")
        except OSError as error:
            return EngineRun(EngineState.UNREACHABLE, f"flwr ls cannot be started: {error.strerror}")
        return read_answer(done.stdout, run)


def check_connection(connection: str) -> None:
    """Raises ``FlipError`` E0543 naming the connections that config.toml of ``FLWR_HOME`` has, if this is none of them.

    A file that cannot be read passes: flwr tells what is wrong with it.
    """
    home = os.environ.get("FLWR_HOME")
    file = (Path(home) if home else Path.home() / ".flwr") / "config.toml"
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("superlink", {})
    except FileNotFoundError:
        table = {}
    except (OSError, ValueError):
        return
    names = [name for name, value in table.items() if isinstance(value, dict)] if isinstance(table, dict) else []
    if connection in names:
        return
    raise FlipError(
        "E0543",
        where=str(file),
        engine="Flower",
        connection=connection,
        problem=f"there is no connection '{connection}'",
        why=f"the file has {', '.join(names)}" if names else "the file is not there or has no connection",
        fix=f"use --connection with one of them, add [superlink.{connection}] to the file, or set FLWR_HOME",
    )


def read_answer(text: str, run: str) -> EngineRun:
    """What ``flwr ls --format json`` says of ``run``. Never raises: an answer that is none is ``REFUSED``.

    Its exit code says nothing: it is 0 when the SuperLink could not be reached, too.
    """
    document = _document(text)
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


def _document(text: str) -> dict[str, Any] | None:
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


def _program() -> Path:
    beside = Path(sys.executable).with_name("flwr")
    found = beside if os.access(beside, os.X_OK) else shutil.which("flwr")
    if not found:
        raise FlipError(
            "E0509", part="Flower", needed_for="its runs are looked up with flwr ls", requirement="flip_fl[flower]"
        )
    return Path(found)
