"""Processes for tests that begin with flip_fl loaded: forked, where a fresh interpreter would import for a second."""

from __future__ import annotations

from pathlib import Path

from flip_fl.app.forks import Fork
from flip_fl.app.kept_forks import KeptForkServer
from flip_fl.environment import scrubbed

# What commands import when they are called, and the hub; torch and the engines are no part of it.
LOADED = (
    "flip_fl.cli",
    "flip_fl.commands.checks",
    "flip_fl.commands.hub_probe",
    "flip_fl.dashboard.report",
    "flip_fl.hub.admin",
    "flip_fl.hub.sweep",
    "flip_fl.hub.__main__",
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
