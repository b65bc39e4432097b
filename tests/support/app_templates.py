"""New apps outside any engine: their data, one site that has all of it, and the checkpoints that they come with.

``python -m tests.support.app_templates`` makes the checkpoints anew.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from flip_fl.app.config import load_config
from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.app.weights import export_model, initial_arrays
from flip_fl.data.sources.folder import FolderSource
from flip_fl.jobs.app_templates import layers_of, write_new_app
from flip_fl.jobs.templates import template_dir
from flip_fl.settings import DevSettings
from flip_fl.simulate.prepare import prepare
from flip_fl.values import JobType, Task

ROUNDS = 3


class OneSite:
    """A site that has all of the data that the app's ``prepare.py`` writes."""

    def __init__(self, app: Path, data: Path) -> None:
        prepare(app, data)
        self.app = app
        self.config = load_config(app)
        settings = DevSettings(
            dataframe=data / "cohort.csv",
            images_dir=data / "images",
            tabular=not self.config.imaging,
            missing_study="error",
        )  # type: ignore[call-arg]
        self._session = Session(app, FolderSource(settings))

    def run(self, task: Task, arrays: Any, round: int = 1, **spec: Any) -> Result:
        """One task; fails where the app does."""
        facts = SiteSpec("Trust_1", round, ROUNDS, task=task, seed=self.config.seed, **spec)
        result = run_task(task, arrays, facts, self._session)
        assert result.failure is None, result.failure
        return result

    def trained(self, arrays: Any, rounds: int = ROUNDS, **spec: Any) -> tuple[Any, list[Result]]:
        """The weights after some rounds, and what ``validate`` gave before and after each."""
        scores = [self.run(Task.VALIDATE, arrays, 1, **spec)]
        for number in range(1, rounds + 1):
            arrays = self.run(Task.TRAIN, arrays, number, **spec).arrays
            scores.append(self.run(Task.VALIDATE, arrays, number, **spec))
        return arrays, scores

    def close(self) -> None:
        self._session.release()


def baseline(folder: Path, *, imaging: bool) -> Path:
    """The checkpoint of an evaluation: what the standard app of the same data trains at a site that has all of it."""
    app = folder / "app"
    write_new_app(app, JobType.STANDARD, imaging=imaging)
    site = OneSite(app, folder / "data")
    arrays, _ = site.trained({name: np.array(array) for name, array in initial_arrays(app).items()})
    site.close()
    export_model(app, arrays, folder / "baseline.pt")
    return folder / "baseline.pt"


def main() -> None:
    """Write both."""
    for imaging in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            target = template_dir("apps", layers_of(JobType.EVALUATION, imaging)[1])
            shutil.copyfile(baseline(Path(folder), imaging=imaging), target / "baseline.pt")


if __name__ == "__main__":
    main()
