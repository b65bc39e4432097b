"""Small neutral apps, written where a test needs one: logistic regression on a few hundred made-up rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

CANARY = "CANARY7Q"

# The ordinary app of three rounds: it reports in every way that there is.
ORDINARY: dict[str, Any] = {
    "in_train": "from flip_fl import FLIP; FLIP().send_metrics('somebody', 'my-model', 'direct', 0.25, site.round)",
    "returned": ', "label_counts": {"yes": 64, "no": 51, "unknown": 5}',
    "optimiser": "torch.optim.SGD",
    "GLOBAL_ROUNDS": 3,
    "LOCAL_ROUNDS": 2,
}

MODELS = """
import torch


def get_model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)
"""

TRAINER = """
import torch

{at_import}


# What torch's own SGD does; but that needs torch's compiler, which takes every process seconds to load.
class Descent:
    def __init__(self, parameters, lr):
        self.parameters, self.lr = list(parameters), lr

    def zero_grad(self):
        for each in self.parameters:
            each.grad = None

    def step(self):
        with torch.no_grad():
            for each in self.parameters:
                if each.grad is not None:
                    each -= self.lr * each.grad


{data}

def _loss(model, site):
    x, y = _data(site)
    return torch.nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y), len(y)


def train(model, site, config):
    {in_train}
    optimiser = {optimiser}(model.parameters(), lr=0.5)
    for step in range(config.get("LOCAL_ROUNDS", 1)):
        optimiser.zero_grad()
        loss, examples = _loss(model, site)
        loss.backward()
        optimiser.step()
        site.log("step_loss", float(loss), x_value=float(step), x_label="Step")
    {before_return}
    return {{"num_examples": examples, "loss": float(loss){returned}}}


def validate(model, site, config):
    {in_validate}
    with torch.no_grad():
        loss, examples = _loss(model, site)
    return {{"num_examples": examples, "loss": float(loss), "wrong": {wrong}}}
"""

TABLE_DATA = """
def _data(site):
    cohort = site.cohort()
    x = torch.tensor(cohort[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    y = torch.tensor(cohort["label"].to_numpy(), dtype=torch.float32)
    return x, y
"""

PREPARE = """
import csv
import random


def prepare(out_dir):
    draw = random.Random(7)
    with open(out_dir / "cohort.csv", "w", newline="") as out:
        rows = csv.writer(out)
        rows.writerow(["person_id", "accession_id", "a", "b", "c", "label", "note"])
        for number in range(240):
            a, b, c = (draw.gauss(0, 1) for _ in range(3))
            label = int(a - 2 * b + 0.5 * c + draw.gauss(0, 0.3) > 0)
            names = [f"{canary}P{{number:05d}}", f"{canary}A{{number:05d}}"]
            rows.writerow([*names, a, b, c, label, f"{canary}N{{number}}"])
"""


def write_app(
    folder: Path,
    *,
    at_import: str = "",
    in_train: str = "pass",
    before_return: str = "pass",
    in_validate: str = "pass",
    wrong: str = "0.0",
    returned: str = "",
    optimiser: str = "Descent",
    data: str = TABLE_DATA,
    model_code: str = MODELS,
    canary: str = "ROW",
    **config: Any,
) -> Path:
    """Write an app whose trainer runs the given statements at import, in ``train`` (begin and end) and in ``validate``.

    ``returned`` is what ``train`` returns more; ``wrong`` is the expression that ``validate`` returns as the metric
    "wrong"; ``canary`` begins every identifier and note in the cohort; ``optimiser`` is made of the parameters and
    ``lr``; ``data`` defines ``_data(site)``, ``model_code`` is models.py; ``config`` is added to config.json.
    """
    folder.mkdir(parents=True)
    settings = {"job_type": "standard", "GLOBAL_ROUNDS": 2, "IMAGING": False, **config}
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "models.py").write_text(model_code)
    parts = {"at_import": at_import, "in_train": in_train, "before_return": before_return, "in_validate": in_validate}
    trainer = TRAINER.format(**parts, wrong=wrong, returned=returned, optimiser=optimiser, data=data)
    (folder / "trainer.py").write_text(trainer)
    (folder / "prepare.py").write_text(PREPARE.format(canary=canary))
    return folder
