"""Processes for tests that begin with flip_fl loaded: forked, where a fresh interpreter would import for a second."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flip_fl.app.forks import Fork, ForkServer
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


def fork(
    module: str,
    argv: Sequence[str | int],
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: int | None = None,
    descriptors: Sequence[int] = (),
) -> Fork:
    """``main(argv)`` of ``module`` in a process with just this environment, as ``ForkServer.fork`` has it."""
    server = _servers.get(os.getpid())
    if server is None or not server.usable:
        server = _servers[os.getpid()] = ForkServer(LOADED, scrubbed())
    return server.fork(module, argv, env, cwd=cwd, output=output, descriptors=descriptors)


def hub(settings: Path, *words: str, output: int | None = None) -> Fork:
    """``python -m flip_fl.hub --settings SETTINGS`` with ``words``. ``close`` it: that kills it, too."""
    return fork(
        "flip_fl.hub.__main__", ["--settings", str(settings), *words], env=scrubbed(), cwd=Path.cwd(), output=output
    )


# Of this process; it ends with it.
_servers: dict[int, ForkServer] = {}
