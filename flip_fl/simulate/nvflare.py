"""NVFLARE on one machine: the job folder and the engine's own simulator as a child process."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from uuid import UUID

import psutil

from flip_fl.app.config import CONFIG_FILE, AppConfig, load_config
from flip_fl.app.forms import check_form
from flip_fl.app.secure import check_engine
from flip_fl.app.travel import check_modules
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.jobs.templates import JobValues
from flip_fl.nvflare.job import CUSTOM, write_job
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.processes import Child, descendants, engine_ending, start
from flip_fl.values import SERVER_NAME

# A site's process is there from its first task until the run's end is decided: what is not, is lost. Some seconds more,
# for what reads this later than the engine says it.
LOST_AFTER_S = 8.0


class NVFlare:
    """NVFLARE's simulator."""

    name = "nvflare"

    def check_installed(self) -> None:
        if find_spec("nvflare") is None:
            raise FlipError(
                "E0509", part="NVIDIA FLARE", needed_for="--engine nvflare runs on it", requirement="flip_fl[simulate]"
            )

    def check_app(self, app_dir: Path) -> None:
        check_modules(app_dir)
        check_form(app_dir, self.name)
        check_engine(load_config(app_dir), self.name)

    def start(
        self, config: AppConfig, slots: Sequence[str], model_id: UUID, folder: RunFolder, project_id: str = ""
    ) -> SimulatorRun:
        """One client per slot, as many threads as clients."""
        values = JobValues.of(config, tuple(slots), model_id, project_id)
        job = write_job(config.app_dir, config.job_type.value, values, folder.job)
        # The number of rounds may have been given on the command line: the app's copy says what is run.
        (job / CUSTOM / CONFIG_FILE).write_text(config.for_run(model_id), encoding="utf-8")
        command = [sys.executable, "-m", "nvflare.cli", "simulator", str(job), "-w", str(folder.engine)]
        command += ["-c", ",".join(slots), "-t", str(len(slots))]
        environment = scrubbed(FLIP_SETTINGS_DIR=str(folder.settings), OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
        child = start("the engine", command, folder.logs / "engine.log", cwd=folder.state, env=environment)
        return SimulatorRun(child, slots, folder)


class SimulatorRun:
    """The simulator's process and those of the sites."""

    def __init__(self, child: Child, slots: Sequence[str], folder: RunFolder) -> None:
        self._child = child
        self._slots = slots
        self._folder = folder
        self._sites = SiteProcesses(child, slots)

    @property
    def running(self) -> bool:
        return self._child.running

    def ended(self) -> str:
        return engine_ending(self._child.process.poll())

    def lost(self) -> list[str]:
        """A site's process that is lost: the simulator would wait for its reply."""
        return self._sites.lost()

    def stop_sites(self) -> None:
        """Nothing to do: NVFLARE's own abort signal reaches a task while it runs."""

    def stop(self) -> None:
        self._child.stop()

    def collect_logs(self) -> None:
        """Copy each site's log out of the engine's workspace."""
        for site in (SERVER_NAME, *self._slots):
            source = self._folder.engine / site / "log.txt"
            if source.is_file():
                shutil.copyfile(source, self._folder.logs / f"{site}.log")


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
