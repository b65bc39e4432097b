"""Where the processes of local sites come from: everything that they need is loaded once, before they are there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flip_fl.app.forks import ForkServer
from flip_fl.app.isolation.forking import MODULES as GUEST_MODULES
from flip_fl.errors import FlipError

# What a site's process needs before its first message.
MODULES = (
    "flip_fl.flower.local_worker",
    "flip_fl.flower.local_site",
    "flip_fl.flower.component",
    "flip_fl.flower.client",
)
# In addition: those of a neutral app, which runs in a process of its own from the same server, and of one that speaks
# of torch's optimizers, which load its compiler.
NEUTRAL_MODULES = GUEST_MODULES
OPTIMIZING_MODULES = ("torch._dynamo",)


def site_forks(job_dir: Path, env: Mapping[str, str]) -> ForkServer:
    """The server of the sites' processes for the job.

    Raises ``FlipError`` E0506 when no process can be started.
    """
    try:
        return ForkServer([*app_modules(job_dir / "app"), *MODULES], env)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlipError("E0506", problem="the sites cannot be started", reason=reason, log=job_dir) from None


def app_modules(app: Path) -> tuple[str, ...]:
    """What the app in the folder ``app`` needs in addition to ``MODULES``; nothing where there is no neutral app."""
    if not (app / "models.py").is_file():
        return ()
    # A guess that costs time alone: whatever is missing is loaded where it is needed.
    optimizes = any(re.search(rb"\boptim\b", path.read_bytes()) for path in app.rglob("*.py"))
    return (*NEUTRAL_MODULES, *(OPTIMIZING_MODULES if optimizes else ()))
