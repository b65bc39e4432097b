"""Flower on one machine, in three ways: in-process grid, its own simulation on Ray, a real deployment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from uuid import UUID

from flip_fl.app.config import AppConfig
from flip_fl.app.forms import check_form
from flip_fl.app.travel import check_modules
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.flower.job import check_bundled
from flip_fl.simulate.engines import EngineRun
from flip_fl.simulate.flower_job import FlowerJob
from flip_fl.simulate.flower_link import OFFLINE
from flip_fl.simulate.flower_runs import start_deployment, start_on_ray
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.processes import Child, engine_ending, start
from flip_fl.values import SERVER_NAME


@dataclass(frozen=True)
class Flower:
    """Flower with one of its runtimes. ``needs``: package → the extra that installs it."""

    runtime: str
    begin: Callable[[FlowerJob], EngineRun]
    needs: Mapping[str, str]

    @property
    def name(self) -> str:
        return f"flower ({self.runtime})"

    def check_installed(self) -> None:
        for package, extra in self.needs.items():
            if find_spec(package) is None:
                raise FlipError(
                    "E0509",
                    part={"flwr": "Flower", "ray": "Ray"}[package],
                    needed_for=f"--engine flower --runtime {self.runtime} runs on it",
                    requirement=f"flip_fl[{extra}]",
                )

    def check_app(self, app_dir: Path) -> None:
        check_modules(app_dir)
        check_form(app_dir, "flower")
        check_bundled(app_dir)

    def start(
        self, config: AppConfig, slots: Sequence[str], model_id: UUID, folder: RunFolder, project_id: str = ""
    ) -> EngineRun:
        return self.begin(FlowerJob.write(config, tuple(slots), model_id, folder, project_id))


class LocalRun:
    """The in-process grid: one process that is the server, one child of its for each site."""

    def __init__(self, child: Child, job: FlowerJob) -> None:
        self._child = child
        self._job = job

    @property
    def running(self) -> bool:
        return self._child.running

    def ended(self) -> str:
        return engine_ending(self._child.process.poll())

    def lost(self) -> list[str]:
        """None: the grid itself notices a site's process that ends, and reports it."""
        return []

    def stop_sites(self) -> None:
        self._job.stop_sites()

    def stop(self) -> None:
        self._child.stop()

    def collect_logs(self) -> None:
        """Nothing to do: every process writes its log where it belongs."""


def start_in_process(job: FlowerJob) -> LocalRun:
    """Start the job on the in-process grid."""
    logs = job.folder.logs
    command = [sys.executable, "-m", "flip_fl.flower.local", str(job.path)]
    command += ["--slots", ",".join(job.slots), "--log-dir", str(logs)]
    environment = {**scrubbed(), **OFFLINE, **job.environment}
    log = logs / f"{SERVER_NAME}.log"
    return LocalRun(start("the engine", command, log, cwd=job.folder.state, env=environment), job)


def runtimes() -> Mapping[str, Flower]:
    """Flower's ways to run, by the name that ``--runtime`` takes."""
    flwr = {"flwr": "flower"}
    ways = (
        Flower("in-process", start_in_process, flwr),
        Flower("ray", start_on_ray, {**flwr, "ray": "ray"}),
        Flower("deployment", start_deployment, flwr),
    )
    return MappingProxyType({way.runtime: way for way in ways})
