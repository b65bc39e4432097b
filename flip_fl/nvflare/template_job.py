"""A filled job template as NVFLARE's ``FedJob``, so that its environments run, export and submit it like any other."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from nvflare.apis.job_def import ALL_SITES
from nvflare.job_config.api import FedJob
from nvflare.job_config.fed_job_config import FedJobConfig

from flip_fl.app.config import CONFIG_FILE, AppConfig
from flip_fl.jobs.templates import JobValues
from flip_fl.nvflare.job import CUSTOM, write_job

META = "meta.json"


class TemplateJob(FedJob):
    """The job of an app, called after its model. NVFLARE's own ``to``, ``to_server``, … add nothing to it."""

    def __init__(self, app: AppConfig, values: JobValues) -> None:
        super().__init__(name=str(values.model_id), min_clients=max(values.min_clients, 1))
        self.job = _Config(app, values)
        # NVFLARE's simulator then takes as many sites as its environment says.
        self.clients = [ALL_SITES]

    def _validate_target(self, target: str) -> None:
        raise ValueError("this job is its template's: export it, and edit its JSON")


class _Config(FedJobConfig):
    def __init__(self, app: AppConfig, values: JobValues) -> None:
        super().__init__(job_name=str(values.model_id), min_clients=max(values.min_clients, 1))
        self._app = app
        self._values = values

    def generate_job_config(self, job_root: str) -> None:
        """Write ``<job_root>/<name>``, in the place of an earlier one. Raises ``FileExistsError`` for anything else."""
        root = Path(job_root)
        root.mkdir(parents=True, exist_ok=True)
        target = root / self.job_name
        if target.exists() and not _is_job(target, self.job_name):
            raise FileExistsError(f"{target} is there and is no job of this name")
        with tempfile.TemporaryDirectory(prefix=".flip-job-", dir=root) as made:
            job = write_job(self._app.app_dir, self._app.job_type.value, self._values, Path(made) / self.job_name)
            copy = job / CUSTOM / CONFIG_FILE
            copy.write_text(self._app.for_run(self._values.model_id), encoding="utf-8")
            if target.exists():
                target.rename(Path(made) / "before")
            job.rename(target)


def _is_job(folder: Path, name: str) -> bool:
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(meta, dict) and meta.get("name") == name
