"""NVFLARE on one machine: the job folder and the engine's own simulator as a child process."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from uuid import UUID

import psutil

from flip_fl.app.config import AppConfig
from flip_fl.errors import FlipError
from flip_fl.nvflare.job import JobValues, write_job
from flip_fl.simulate.environment import scrubbed
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.processes import Child, descendants, start
from flip_fl.values import SERVER_NAME

# A site's process is there from its first task to the end of the run; an engine that winds down needs some seconds
# after its sites have left.
LOST_AFTER_S = 20.0


def check_installed() -> None:
    """Raises ``FlipError`` E0509 when NVFLARE is not there."""
    if find_spec("nvflare") is None:
        raise FlipError(
            "E0509", part="NVIDIA FLARE", needed_for="--engine nvflare runs on it", requirement="flip_fl[simulate]"
        )


def start_engine(config: AppConfig, slots: Sequence[str], model_id: UUID, folder: RunFolder) -> Child:
    """Write the job of ``config`` and start it with one client per slot, as many threads as clients."""
    values = JobValues(
        model_id=model_id,
        num_rounds=config.global_rounds,
        min_clients=config.min_clients or len(slots),
        ignore_result_error=config.ignore_result_error,
        best_model_metric=config.best_model_metric or "",
        best_model_minimize=config.best_model_metric_minimize,
        aggregation_weights=config.aggregation_weights,
        local_rounds=config.local_rounds,
        query=config.query,
    )
    job = write_job(config.app_dir, config.job_type.value, values, folder.job)
    # The number of rounds may have been given on the command line: the app's copy says what is run.
    (job / "app" / "custom" / "config.json").write_text(json.dumps(dict(config.raw), indent=2), encoding="utf-8")
    command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(folder.engine)]
    command += ["-c", ",".join(slots), "-t", str(len(slots))]
    environment = scrubbed(FLIP_SETTINGS_DIR=str(folder.settings), OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    return start("the engine", command, folder.logs / "engine.log", cwd=folder.state, env=environment)


class SiteProcesses:
    """The simulator's process of each site: who has been there and is not any more."""

    def __init__(self, engine: Child, slots: Sequence[str]) -> None:
        self._engine = engine
        self._slots = slots
        self._seen: set[str] = set()
        self._missing_since: dict[str, float] = {}

    def lost(self) -> list[str]:
        """The slots whose process has been gone for ``LOST_AFTER_S``."""
        alive = set()
        for process in descendants(self._engine.process.pid):
            with contextlib.suppress(psutil.Error):
                command = process.cmdline()
                if "--client" in command[:-1] and process.status() != psutil.STATUS_ZOMBIE:
                    alive.add(command[command.index("--client") + 1])
        self._seen |= alive
        now = time.monotonic()
        missing = [slot for slot in self._slots if slot in self._seen and slot not in alive]
        self._missing_since = {slot: self._missing_since.get(slot, now) for slot in missing}
        return [slot for slot in missing if now - self._missing_since[slot] >= LOST_AFTER_S]


def collect_logs(slots: Sequence[str], folder: RunFolder) -> None:
    """Copy each site's log out of the engine's workspace to ``logs/<server|slot>.log``."""
    for site in (SERVER_NAME, *slots):
        source = folder.engine / site / "log.txt"
        if source.is_file():
            shutil.copyfile(source, folder.logs / f"{site}.log")
