"""Where the processes of local sites come from: everything that they need is loaded once, before they are there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from flip_fl.app.forks import ForkServer
from flip_fl.errors import FlipError

# What a site's process needs before its first message.
MODULES = (
    "flip_fl.flower.local_worker",
    "flip_fl.flower.local_site",
    "flip_fl.flower.component",
    "flip_fl.flower.client",
)
# A neutral app's in addition: an optimizer loads torch._dynamo.
NEUTRAL_MODULES = ("torch", "torch._dynamo")


def site_forks(job_dir: Path, env: Mapping[str, str]) -> ForkServer:
    """The server of the sites' processes for the job.

    Raises ``FlipError`` E0506 when no process can be started.
    """
    neutral = (job_dir / "app" / "models.py").is_file()
    try:
        return ForkServer([*(NEUTRAL_MODULES if neutral else ()), *MODULES], env)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlipError("E0506", problem="the sites cannot be started", reason=reason, log=job_dir) from None
