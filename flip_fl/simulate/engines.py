"""What a simulated run asks of an engine, and where the engines are found: nothing else here knows one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from uuid import UUID

from flip_fl.app.config import AppConfig
from flip_fl.simulate.folder import RunFolder
from flip_fl.simulate.model import RUNTIMES, check_names


class EngineRun(Protocol):
    """One run that an engine was given."""

    @property
    def running(self) -> bool:
        """Whether the engine still works on the run."""

    def ended(self) -> str:
        """How the engine ended, in words."""

    def lost(self) -> list[str]:
        """The slots whose process is gone in a way that the engine itself would wait for."""

    def stop_sites(self) -> None:
        """Tell the sites that what they train is wanted no more, where the engine itself has no way to."""

    def stop(self) -> None:
        """End every process that the engine started."""

    def collect_logs(self) -> None:
        """Put the engine's logs where a run's folder has them: ``logs/<server|slot>.log``."""


class Engine(Protocol):
    """An engine on this machine."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    def check_installed(self) -> None:
        """Raises ``FlipError`` E0509 when a package is missing."""

    def check_app(self, app_dir: Path) -> None:
        """Raises ``FlipError`` E0207, E0208 for an app that the engine would not carry as it is."""

    def start(
        self, config: AppConfig, slots: Sequence[str], model_id: UUID, folder: RunFolder, project_id: str = ""
    ) -> EngineRun:
        """Write the job of ``config`` and start it at ``slots``; an exception leaves nothing running.

        ``project_id`` is what the sites' services take for the project.
        """


def find_engine(name: str, runtime: str = "") -> Engine:
    """The engine called ``name`` (``runtime`` empty: its first).

    Raises ``FlipError`` E0510 for a name that is no engine, E0514 for a runtime that the engine has not.
    """
    check_names(name, runtime)
    if name == "flower":
        from flip_fl.simulate.flower import runtimes

        return runtimes()[runtime or RUNTIMES[name][0]]
    from flip_fl.simulate.nvflare import NVFlare

    return NVFlare()
