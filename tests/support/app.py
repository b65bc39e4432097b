"""Small apps written to a folder, and a source of data that is a table in memory."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flip_fl.app.runner import Result, Session, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.http import status_error
from flip_fl.values import ResourceType, Task

MODELS = """
import torch

def get_model():
    return torch.nn.Linear(2, 1)
"""

TRAINER = """
import torch

def train(model, site, config):
    with torch.no_grad():
        model.weight += 1.0
    return {"num_examples": 4, "loss": 0.5}

def validate(model, site, config):
    return {"num_examples": 2, "loss": 0.25, "auc": 0.75}
"""

CONFIG: Mapping[str, Any] = {"job_type": "standard", "IMAGING": False}
ARRAYS = {"weight": np.zeros((1, 2), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}


def write_app(
    folder: Path,
    *,
    trainer: str = TRAINER,
    models: str = MODELS,
    config: Mapping[str, Any] | str = CONFIG,
    **others: str,
) -> Path:
    """Write an app; ``others`` are further modules by name."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"trainer": trainer, "models": models, **others}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text), encoding="utf-8")
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


class TableSource:
    """A source whose cohort is ``frame`` and whose studies are the folders in ``studies``; the rest is not there."""

    def __init__(self, frame: pd.DataFrame | None = None, studies: Mapping[str, Path] | None = None) -> None:
        self.frame = frame if frame is not None else pd.DataFrame({"person_id": [1, 2], "value": [0.5, 1.5]})
        self.studies = dict(studies or {})
        self.asked: list[str] = []
        self.images_root = None
        self.state_dir = None
        self.in_flight = 1

    def dataframe(self, project_id: str, query: str) -> pd.DataFrame:
        return self.frame.copy()

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        self.asked.append(accession_id)
        if accession_id not in self.studies:
            raise status_error("POST", "/download/images/{net}", 404)
        return dict.fromkeys(types, self.studies[accession_id])

    def add_resource(self, *args: Any) -> None:
        raise NotImplementedError


def run(
    app: Path,
    task: Task = Task.TRAIN,
    *,
    source: TableSource | None = None,
    session: Session | None = None,
    arrays: Mapping[str, Any] = ARRAYS,
    round: int = 1,
    slot: str = "Trust_1",
    seed: int = 0,
    aborted: Callable[[], bool] = lambda: False,
) -> Result:
    """Run one task of ``app`` as an engine would."""
    session = session or Session(app, source or TableSource(), lambda batch: None, aborted)
    return run_task(task, arrays, SiteSpec(slot=slot, round=round, total_rounds=3, seed=seed), session)


def metrics_of(result: Result) -> list[tuple[str, float]]:
    """The result's metrics as (label, value), in order."""
    return [(event["label"], event["result"]) for event in result.events if event["kind"] == "metric"]


def notes_of(result: Result) -> list[str]:
    """The result's log rows."""
    return [event["log"] for event in result.events if event["kind"] == "log"]
