"""Where the processes of local sites come from: everything that they need is loaded once, before they are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flip_fl.app.child import MODULES as SERVER_MODULES
from flip_fl.app.child import UNHASHED
from flip_fl.app.forks import ForkServer
from flip_fl.app.isolation.forking import MODULES as GUEST_MODULES
from flip_fl.errors import FlipError

WORKER = "flip_fl.flower.local_worker"
# What a site's process needs before its first message.
MODULES = ("flip_fl.flower.local_site", "flip_fl.flower.component", "flip_fl.flower.client")
# What an app speaks of that has torch's optimizers: they load its compiler when the first is made.
OPTIMIZING_MODULES = ("torch._dynamo",)


def site_forks(job_dir: Path, env: Mapping[str, str]) -> ForkServer:
    """The server of the job's processes: the sites', and those in which the ServerApp has its model.

    Raises ``FlipError`` E0506 when no process can be started.
    """
    try:
        return ForkServer(modules(job_dir / "app"), {**env, **UNHASHED})
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlipError("E0506", problem="the sites cannot be started", reason=reason, log=job_dir) from None


def modules(app: Path) -> tuple[str, ...]:
    """What is loaded for a job whose neutral app, if it has one, lies in ``app``: what is needed first stands first."""
    if not is_neutral(app):
        return (*MODULES, WORKER)
    # A guess that costs time alone: whatever is missing is loaded where it is needed.
    optimizes = any(re.search(rb"\boptim\b", path.read_bytes()) for path in app.rglob("*.py"))
    *shared, guest = GUEST_MODULES
    return (*shared, *SERVER_MODULES, *MODULES, *(OPTIMIZING_MODULES if optimizes else ()), guest, WORKER)


def is_neutral(app: Path) -> bool:
    """Whether the folder has a model that the ServerApp asks for."""
    return (app / "models.py").is_file()
