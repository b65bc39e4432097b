"""Runs of a Flower deployment, by Flower's own command line: ``flwr ls``, ``run``, ``stop`` and ``log``."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.jobs.decide import EngineRun, EngineState
from flip_fl.jobs.engine import EngineJob
from flip_fl.jobs.flower_answers import document_of, is_away, problem_of, read_answer, read_job
from flip_fl.values import natural_key

COMMAND_TIMEOUT_S = 30.0
SUBMIT_TIMEOUT_S = 120.0
# A FLWR_HOME of ours has one connection.
CONNECTION = "here"
# The command must neither fetch anything nor call anybody but the SuperLink; and its answer is read by a program.
_ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "NO_COLOR": "1",
    "TERM": "dumb",
    "PYTHONIOENCODING": "utf-8",
}


class FlowerRuns:
    """The runs of the SuperLink behind ``connection``, a name in config.toml of ``home`` (default: FLWR_HOME).

    Raises ``FlipError`` E0509 when Flower is not installed, E0543 when config.toml has no such connection.
    """

    engine = "Flower"
    server = "the SuperLink"

    def __init__(self, connection: str, *, home: Path | None = None, timeout_s: float = COMMAND_TIMEOUT_S) -> None:
        self.connection = connection
        self._home = home
        self._timeout_s = timeout_s
        self._program = _program()
        check_connection(connection, home)

    def look(self, run: str) -> EngineRun:
        """``flwr ls <connection> --run-id <run>``, once, within the time-out."""
        try:
            return read_answer(self._flwr("ls", self.connection, "--run-id", run, "--format", "json"), run)
        except OSError as error:
            return EngineRun(EngineState.UNREACHABLE, str(error))

    def _flwr(self, *words: str, timeout_s: float | None = None) -> str:
        """What the command prints. Raises ``TimeoutError`` and other ``OSError``."""
        environment = {**scrubbed(), **_ENVIRONMENT}
        environment.pop("FORCE_COLOR", None)
        if self._home is not None:
            environment["FLWR_HOME"] = str(self._home)
        limit_s = self._timeout_s if timeout_s is None else timeout_s
        try:
            done = subprocess.run(
                [str(self._program), *words],
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                timeout=limit_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"flwr {words[0]} took more than {limit_s:g} s") from None
        except OSError as error:
            raise OSError(f"flwr {words[0]} cannot be started: {error.strerror}") from None
        return done.stdout


class FlowerJobs(FlowerRuns):
    """See ``engine.FederationJobs``: the SuperLink of the server's kit, on this machine. ``home`` is its FLWR_HOME.

    ``nodes``: the id of each slot's node, now. Raises ``FlipError`` E0509, E0543 (a kit whose server was never started
    has no connection).
    """

    def __init__(self, kit: Path, home: Path, nodes: Callable[[], Mapping[str, str]]) -> None:
        super().__init__(CONNECTION, home=home)
        self.kit = kit
        self._nodes = nodes

    def sites(self) -> list[str]:
        listed = self._asked("supernode", "list", self.connection, act="list the nodes")["nodes"]
        online = {str(node["node-id"]) for node in listed if node["status"] == "online"}
        return sorted((slot for slot, node_id in self._nodes().items() if node_id in online), key=natural_key)

    def jobs(self) -> list[EngineJob]:
        rows = self._asked("ls", self.connection, act="list the runs")["runs"]
        return [read_job(row) for row in rows]

    def submit(self, folder: Path, token: str) -> str:
        """``token`` is not used: Flower has no word for it."""
        answer = self._asked("run", str(folder), self.connection, act="submit", timeout_s=SUBMIT_TIMEOUT_S)
        return str(answer["run-id"])

    def abort(self, job: str) -> None:
        self._asked("stop", job, self.connection, act="stop the run")

    def logs(self, job: str) -> str:
        try:
            return self._flwr("log", job, self.connection, "--show")
        except OSError as error:
            raise self._away(str(error)) from None

    def close(self) -> None:
        """Nothing stays open."""

    def _asked(self, *words: str, act: str, timeout_s: float | None = None) -> Mapping[str, Any]:
        try:
            document = document_of(self._flwr(*words, "--format", "json", timeout_s=timeout_s))
        except OSError as error:
            raise self._away(str(error)) from None
        problem = "it gave no answer that can be read" if document is None else problem_of(document)
        if document is not None and problem is None:
            return document
        if problem is not None and is_away(problem):
            raise self._away(problem)
        raise FlipError("E0546", server=self.server, act=act, problem=problem)

    def _away(self, problem: str) -> FlipError:
        return FlipError("E0545", server=self.server, kit=self.kit, problem=problem)


def check_connection(connection: str, home: Path | None = None) -> None:
    """Raises ``FlipError`` E0543 naming the connections that config.toml of ``home`` has, if this is none of them.

    ``home`` is FLWR_HOME by default. A file that cannot be read passes: flwr tells what is wrong with it.
    """
    named = os.environ.get("FLWR_HOME")
    folder = home or (Path(named) if named else Path.home() / ".flwr")
    file = folder / "config.toml"
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
        fix="start the server's kit: startup/start.sh"
        if home is not None
        else f"use --connection with one of them, add [superlink.{connection}] to the file, or set FLWR_HOME",
    )


def _program() -> Path:
    beside = Path(sys.executable).with_name("flwr")
    found = beside if os.access(beside, os.X_OK) else shutil.which("flwr")
    if not found:
        raise FlipError(
            "E0509", part="Flower", needed_for="its runs are looked up with flwr ls", requirement="flip_fl[flower]"
        )
    return Path(found)
