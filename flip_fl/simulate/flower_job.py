"""What every way of running Flower on one machine starts from: the job's folder and who takes part."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from flip_fl.app.config import CONFIG_FILE, AppConfig
from flip_fl.app.stop import request_stop
from flip_fl.flower.job import APP, write_job
from flip_fl.jobs.templates import JobValues
from flip_fl.simulate.folder import RunFolder


@dataclass(frozen=True)
class FlowerJob:
    """A job that is written, and where it runs. ``spare``: how many of its slots it can do without."""

    path: Path
    slots: tuple[str, ...]
    model_id: UUID
    folder: RunFolder
    spare: int

    @classmethod
    def write(
        cls, config: AppConfig, slots: tuple[str, ...], model_id: UUID, folder: RunFolder, project_id: str = ""
    ) -> FlowerJob:
        """Fill the template. Raises ``FlipError`` E0207, E0208."""
        values = JobValues.of(config, slots, model_id, project_id)
        path = write_job(config.app_dir, config.job_type.value, values, folder.job)
        # The number of rounds may have been given on the command line: the app's copy says what is run.
        (path / APP / CONFIG_FILE).write_text(config.for_run(model_id), encoding="utf-8")
        spare = len(slots) - values.min_clients if config.ignore_result_error else 0
        return cls(path, slots, model_id, folder, spare)

    @property
    def environment(self) -> Mapping[str, str]:
        """What each of its processes is given."""
        return {"FLIP_SETTINGS_DIR": str(self.folder.settings), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}

    def stop_sites(self) -> None:
        """Write each site's stop file: Flower itself never interrupts a ClientApp."""
        for slot in self.slots:
            with contextlib.suppress(OSError):  # the processes are ended in any case
                request_stop(self.folder.site(slot), self.model_id)
