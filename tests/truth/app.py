"""The apps of the table's runs: small ones that wait at one moment until they are let go on, or raise there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_fl.values import JobType
from tests.support.small_apps import write_app
from tests.truth.cells import Cell, Column, Row

GO = "go"
START = "start.pt"
# The moments in which a job loads a checkpoint, where a cell is about one.
STARTS_FROM_FILE = (Column.INIT, Column.EVALUATE)
HELD_S = 240.0

# In the app's own folder, so that it travels with it. It does nothing where the app is only looked at.
GATE = '''
"""Waits at one moment of the run."""

import os
import time
from pathlib import Path

PLACE, RUN, MOMENT = Path({place!r}), {run!r}, {moment!r}
HOLD, RAISE = {hold!r}, {raises!r}


def reached(moment, name=None, aborted=lambda: False):
    if not __file__.startswith(RUN) or moment != MOMENT:
        return
    (PLACE / f"{{name or os.getpid()}}.reached").touch()
    until = time.monotonic() + {held_s}
    while HOLD and not (PLACE / "go").exists() and not aborted() and time.monotonic() < until:
        time.sleep(0.02)
    if RAISE:
        raise RuntimeError("on purpose")


def model_wanted(moments):
    """The FL server asks for the model: at the start of each stage, and when the results are made."""
    home = os.path.basename(os.environ.get("HOME", ""))
    if not __file__.startswith(RUN) or not home.startswith("flip-app-"):
        return
    number = len(list(PLACE.glob("model-*")))
    (PLACE / f"model-{{number}}").touch()
    if number < len(moments):
        reached(moments[number])
'''

MODELS = """
import gate
import torch


def get_model():
    gate.model_wanted(("init", "upload"))
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)
"""

STAGED_MODELS = """
import gate
import torch
from collections import OrderedDict


def get_model(stage):
    gate.model_wanted(("init", "between stages", "upload"))
    torch.manual_seed(0)
    parts = OrderedDict(encoder=torch.nn.Linear(3, 1))
    if stage == "dm":
        parts["head"] = torch.nn.Linear(1, 1)
    return torch.nn.Sequential(parts)
"""

EVALUATED_MODELS = """
import torch


def get_model():
    return torch.nn.Linear(3, 1)
"""

EVALUATOR = """
import gate
import torch


def evaluate(model, site, config):
    gate.reached("evaluate", site.name, lambda: site.aborted)
    cohort = site.cohort()
    x = torch.tensor(cohort[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    y = torch.tensor(cohort["label"].to_numpy(), dtype=torch.float32)
    with torch.no_grad():
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)
    return {"num_examples": len(y), "loss": float(loss)}
"""

# Which training is which column's, by its round.
_TRAIN = """gate.reached({{1: "train, first round", 2: "train, middle round", 3: "train, last round"}}.get(site.round),
                site.name, lambda: site.aborted)
"""
_VALIDATE = """if site.round == site.total_rounds:
        gate.reached("validate, last round", site.name, lambda: site.aborted)
"""


def write_cell_app(folder: Path, cell: Cell, *, run: Path, gate: Path) -> Path:
    """The app of a cell whose run lies in ``run``: it makes ``<gate>/<who>.reached`` and waits for ``<gate>/go``."""
    gate.mkdir()
    raises = cell.row is Row.RAISES or (cell.row is Row.CLEANUP and cell.column is not Column.CLEANUP)
    config: Mapping[str, Any] = {"GLOBAL_ROUNDS": 3}
    models = MODELS
    if cell.column.job_type is JobType.DIFFUSION:
        models, config = STAGED_MODELS, {"GLOBAL_ROUNDS_AE": 1, "GLOBAL_ROUNDS_DM": 1}
    if cell.column is Column.EVALUATE:
        models, config = EVALUATED_MODELS, {"models": {"start": {"checkpoint": START}}}
    elif cell.row is Row.MODEL and cell.column in STARTS_FROM_FILE:
        config = {**config, "SERVER_CHECKPOINT": START}
    write_app(
        folder,
        at_import='import gate\n\ngate.reached("import")',
        in_train=_TRAIN.format(),
        in_validate=_VALIDATE,
        model_code=models,
        **{"job_type": cell.column.job_type.value, **config},
    )
    if cell.column in STARTS_FROM_FILE:
        import torch

        torch.save(torch.nn.Linear(3, 1).state_dict(), folder / START)
    if cell.column is Column.EVALUATE:
        (folder / "evaluator.py").write_text(EVALUATOR)
    # What is not the app's doing waits in the object store's answer instead.
    moment = "" if cell.column is Column.UPLOAD and not raises else cell.column.value
    facts = {"place": str(gate), "run": str(run), "moment": moment, "hold": cell.row is not Row.RAISES}
    (folder / "gate.py").write_text(GATE.format(**facts, raises=raises, held_s=HELD_S))
    return folder
