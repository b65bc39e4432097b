"""Small apps that evaluate models, with the checkpoints that they name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.small_apps import PREPARE

MODELS = """
import torch


def get_model():
    return torch.nn.Linear(3, 1)


def get_model_for_path(path):
    assert path == "wide"
    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
"""

EVALUATOR = """
import torch


def evaluate(model, site, config):
    {in_evaluate}
    cohort = site.cohort()
    x = torch.tensor(cohort[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    y = torch.tensor(cohort["label"].to_numpy(), dtype=torch.float32)
    with torch.no_grad():
        found = model(x).squeeze(1) > 0
    return {{
        "num_examples": len(y),
        "accuracy": (found == (y > 0)).float().mean(),
        "draw": torch.rand(1).item(),
        "confusion": [[1, 2], [3, 4]],
        "roc": {{"fpr": torch.linspace(0, 1, 5), "tpr": (0, 0.5, 1.0)}},
        "holes": [0.5, float("nan")],
        "p0001234567": [0.5],
    }}
"""


def write_evaluation(
    folder: Path, models: Mapping[str, Any] | None, *, in_evaluate: str = "pass", **config: Any
) -> Path:
    """Write an app that evaluates ``models`` (None: the config has none), with linear.pt and wide.pt beside it.

    ``in_evaluate``: statements at the beginning of ``evaluate``.
    """
    import torch

    folder.mkdir(parents=True)
    named = {} if models is None else {"models": models}
    settings = {"job_type": "evaluation", "IMAGING": False, **named, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "models.py").write_text(MODELS)
    (folder / "evaluator.py").write_text(EVALUATOR.format(in_evaluate=in_evaluate))
    (folder / "prepare.py").write_text(PREPARE.format(canary="ROW"))
    linear, wide = (
        torch.nn.Linear(3, 1),
        torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1)),
    )
    for name, model in (("linear", linear), ("wide", wide)):
        weights = {key: torch.full_like(value, 0.25) for key, value in model.state_dict().items()}
        torch.save(weights, folder / f"{name}.pt")
    return folder
