"""Processes for tests that begin with flip_fl loaded: forked, where a fresh interpreter would import for a second."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from flip_fl.app.forks import NEVER_S, Fork
from flip_fl.app.kept_forks import KeptForkServer
from flip_fl.environment import scrubbed
from flip_fl.simulate import hub as simulated
from flip_fl.simulate import processes

# What commands import when they are called, and the hub; torch and the engines are no part of it.
LOADED = (
    "flip_fl.cli",
    "flip_fl.commands.checks",
    "flip_fl.commands.hub_probe",
    "flip_fl.dashboard.report",
    "flip_fl.hub.admin",
    "flip_fl.hub.sweep",
    "flip_fl.hub.__main__",
    "flip_fl.hub.server",
    "flip_fl.jobs.watch",
    "flip_fl.provision.make",
    "flip_fl.provision.verify",
    "flip_fl.reporting.session",
    "flip_fl.results.s3",
    "flip_fl.simulate.run",
    "tests.support.forked_cli",
)
# Of this process; it ends with it.
server = KeptForkServer(LOADED, scrubbed)


def hub(settings: Path, *words: str, output: int | None = None) -> Fork:
    """``python -m flip_fl.hub --settings SETTINGS`` with ``words``. ``close`` it: that kills it, too."""
    return server.fork(
        "flip_fl.hub.__main__", ["--settings", str(settings), *words], env=scrubbed(), cwd=Path.cwd(), output=output
    )


class Forked:
    """A forked process with as much of ``Popen`` as ``flip_fl.simulate.processes.Child`` asks for."""

    def __init__(self, fork: Fork) -> None:
        self._fork = fork
        self.pid = fork.pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        if not self._fork.ended():
            return None
        self._fork.close()  # gives its number back, as a ``Popen`` does
        return self._fork.returncode

    def wait(self, timeout: float | None = None) -> int:
        if not self._fork.wait(NEVER_S / 1000 if timeout is None else timeout):
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        self._fork.close()
        return self._fork.returncode

    def kill(self) -> None:
        self._fork.kill()


# The hub of each run that was started in this process, by its settings file.
hubs: dict[Path, Forked] = {}


def simulate_with_warm_hubs() -> None:
    """From now on the hub of a run in this process is forked: a third of what a small run costs is a hub's imports.

    It is a process of its own all the same, with its own log, environment and end; it works in the folder of its log,
    by which ``tests.support.runs.processes_in`` finds it. Runs of the command line start their hub as anywhere.
    """
    simulated.start = _start


def _start(
    name: str, command: Sequence[str], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> processes.Child:
    _python, _m, module, *words = command
    assert module == "flip_fl.hub"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        fork = server.fork(f"{module}.__main__", words, env or {}, cwd=cwd or log.parent, output=out.fileno())
    process = Forked(fork)
    hubs[Path(words[words.index("--settings") + 1])] = process
    return processes.Child(name, cast("subprocess.Popen[bytes]", process), log)
