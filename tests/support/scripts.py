"""NVFLARE Client-API scripts in exactly the form that existing apps have; none of them knows flip_fl."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.support.evaluations import write_evaluation
from tests.support.small_apps import PREPARE

MODELS = """
import torch


def get_model():
    return torch.nn.Linear(3, 1)
"""

# The computation, word for word the same in the script and in the neutral app beside it.
COMPUTATION = """
import torch


def loss_of(model, x, y):
    return torch.nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)


def fit(model, x, y, steps):
    for _ in range(steps):
        batch = torch.randint(0, len(y), (64,))
        loss = loss_of(model, x[batch], y[batch])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients):
                parameter -= 0.5 * gradient
    return float(loss_of(model, x, y))


def score(model, x, y):
    with torch.no_grad():
        right = (model(x).squeeze(1) > 0) == (y > 0)
        return {"val_loss": float(loss_of(model, x, y)), "accuracy": float(right.float().mean())}


def table(frame):
    x = torch.tensor(frame[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    return x, torch.tensor(frame["label"].to_numpy(), dtype=torch.float32)
"""

TRAINER = """
import argparse
import json
import logging
from pathlib import Path

import numpy as np
import nvflare.client as flare
import torch
from computation import fit, score, table
from flip import FLIP
from models import get_model
from nvflare.client.tracking import SummaryWriter

logger = logging.getLogger(__name__)
{at_import}


def parse_args():
    parser = argparse.ArgumentParser()
    parser.add_argument("--project_id", type=str, default="")
    return parser.parse_args()


def load_query():
    path = Path(__file__).parent.parent / "config" / "config_fed_client.json"
    return json.loads(path.read_text()).get("query", "") if path.exists() else ""


def send_weight_diff(original, model, steps):
    diff = {{k: v.detach().cpu().numpy() - np.asarray(original[k]) for k, v in model.state_dict().items()}}
    flare.send(flare.FLModel(params=diff, params_type="DIFF", meta={{"NUM_STEPS_CURRENT_ROUND": steps}}))


def main():
    logging.basicConfig(level=logging.INFO)
    args = parse_args()
    config = json.loads((Path(__file__).parent.resolve() / "config.json").read_text())
    flare.init()
    writer = SummaryWriter()
    model = get_model()
    frame = FLIP().get_dataframe(args.project_id, load_query())
    x, y = table(frame)
    print("patients", list(frame["person_id"])[:3])
    epochs = config.get("LOCAL_ROUNDS", 1)
    while flare.is_running():
        input_model = flare.receive()
        if input_model is None:
            break
        global_round = input_model.current_round or 0
        model.load_state_dict({{k: torch.as_tensor(v) for k, v in input_model.params.items()}})
        if flare.is_train():
            {in_train}
            for epoch in range(epochs):
                loss = fit(model, x, y, 3)
                writer.add_scalar("Train loss (G)@epoch", loss, global_step=global_round * epochs + epoch + 1)
            writer.add_scalar("TRAIN_LOSS", loss, global_step=global_round + 1)
            logger.info("trained on %s rows", len(y))
            send_weight_diff(input_model.params, model, len(y))
        elif flare.is_evaluate():
            {in_validate}
            flare.send(flare.FLModel(metrics=score(model, x, y)))
        else:
            logger.warning("Received unknown task; ignoring.")


if __name__ == "__main__":
    main()
"""

NEUTRAL = """
from computation import fit, score, table


def train(model, site, config):
    x, y = table(site.cohort())
    for epoch in range(config.get("LOCAL_ROUNDS", 1)):
        loss = fit(model, x, y, 3)
        step = (site.round - 1) * config.get("LOCAL_ROUNDS", 1) + epoch + 1
        site.log("Train loss (G)", loss, step, "epoch")
    site.log("TRAIN_LOSS", loss)
    return {"num_examples": len(y)}


def validate(model, site, config):
    x, y = table(site.cohort())
    return {"num_examples": len(y), **score(model, x, y)}
"""


def write_script_app(
    folder: Path,
    *,
    trainer: str | None = None,
    at_import: str = "",
    in_train: str = "pass",
    in_validate: str = "pass",
    canary: str = "ROW",
    files: dict[str, str] | None = None,
    **config: Any,
) -> Path:
    """Write an app whose ``trainer.py`` is a Client-API script; the statements run at import and in each task.

    ``trainer`` takes the place of the whole script, ``files`` are further ones by name.
    """
    script = TRAINER.format(at_import=at_import, in_train=in_train, in_validate=in_validate)
    return _write(folder, {"trainer.py": trainer or script, **(files or {})}, canary, config)


EVALUATOR = """
import argparse
import json
from pathlib import Path

import nvflare.client as flare
import torch
from computation import score, table
from flip import FLIP
from models import get_model, get_model_for_path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--project_id", type=str, default="")
    args = parser.parse_args()
    config = json.loads((Path(__file__).parent.resolve() / "config.json").read_text())
    client_config = json.loads((Path(__file__).parent.parent / "config" / "config_fed_client.json").read_text())
    x, y = table(FLIP("evaluation").get_dataframe(args.project_id, client_config.get("query", "")))
    flare.init()
    while flare.is_running():
        input_model = flare.receive()
        if not flare.is_evaluate():
            continue
        name = input_model.meta.get("model") or next(iter(config["models"]))
        path = config["models"][name].get("path")
        model = get_model() if path is None else get_model_for_path(path)
        {in_evaluate}
        model.load_state_dict({{k: torch.as_tensor(v) for k, v in input_model.params.items()}}, strict=True)
        found = {{**score(model, x, y), "roc": {{"fpr": [0.0, 1.0], "tpr": [0.0, 1.0]}}, "num_examples": len(y)}}
        flare.send(flare.FLModel(metrics={{name: found}}))


if __name__ == "__main__":
    main()
"""


def write_evaluator_script(folder: Path, models: dict[str, Any], *, in_evaluate: str = "pass") -> Path:
    """Write an evaluation of ``models`` whose ``evaluator.py`` is a Client-API script, with its checkpoints."""
    app = write_evaluation(folder, models)
    (app / "evaluator.py").write_text(EVALUATOR.format(in_evaluate=in_evaluate))
    (app / "computation.py").write_text(COMPUTATION)
    return app


# NVFLARE's own hello-world for PyTorch, in the form that its documentation gives: the model is evaluated as it came,
# trained, and sent with that score; no task is asked for.
HELLO_CLIENT = """
import argparse

import torch
import torch.nn as nn
import torch.optim as optim
from torch.utils.data import DataLoader, TensorDataset

import nvflare.client as flare
from nvflare.client.tracking import SummaryWriter
from model import SimpleNetwork
from data import load_data


def evaluate(net, data_loader, device):
    correct, total = 0, 0
    with torch.no_grad():
        for inputs, labels in data_loader:
            outputs = net(inputs.to(device))
            correct += ((outputs.squeeze(1) > 0) == (labels.to(device) > 0)).sum().item()
            total += labels.size(0)
    return 100 * correct // total


def define_parser():
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=2)
    return parser.parse_args()


def main():
    args = define_parser()
    batch_size, epochs, lr = args.batch_size, args.epochs, 0.1
    model = SimpleNetwork()
    loss_fn = nn.BCEWithLogitsLoss()
    optimizer = optim.SGD(model.parameters(), lr=lr)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    flare.init()
    summary_writer = SummaryWriter()
    client_name = flare.system_info()["site_name"]
    print(f"site = {client_name}")
    train_loader = DataLoader(TensorDataset(*load_data()), batch_size=batch_size, shuffle=True)

    while flare.is_running():
        input_model = flare.receive()
        print(f"site = {client_name}, current_round = {input_model.current_round}")
        model.load_state_dict(input_model.params)
        model.to(device)
        accuracy = evaluate(model, train_loader, device)
        steps = epochs * len(train_loader)
        for epoch in range(epochs):
            running_loss = 0.0
            for inputs, labels in train_loader:
                optimizer.zero_grad()
                loss = loss_fn(model(inputs.to(device)).squeeze(1), labels.to(device))
                loss.backward()
                optimizer.step()
                running_loss += loss.item()
            global_step = input_model.current_round * epochs + epoch
            summary_writer.add_scalar(tag="loss", scalar=running_loss / len(train_loader), global_step=global_step)
        output_model = flare.FLModel(
            params=model.cpu().state_dict(),
            metrics={"accuracy": accuracy},
            meta={"NUM_STEPS_CURRENT_ROUND": steps},
        )
        flare.send(output_model)


if __name__ == "__main__":
    main()
"""

# In newer ones it also asks whether it is to score alone.
HELLO_STEPS = "        steps = epochs * len(train_loader)\n"
HELLO_EVALUATES = """
        if flare.is_evaluate():
            print(f"site = {client_name}, running cross-site evaluation")
            flare.send(flare.FLModel(metrics={"accuracy": accuracy}))
            continue
"""

HELLO_FILES = {
    "model.py": """
import torch.nn as nn


class SimpleNetwork(nn.Linear):
    def __init__(self):
        super().__init__(3, 1)
""",
    "models.py": "from model import SimpleNetwork\n\n\ndef get_model():\n    return SimpleNetwork()\n",
    "data.py": """
from computation import table
from flip import FLIP


def load_data():
    return table(FLIP().get_dataframe("", ""))
""",
}


def write_hello_world(folder: Path, *, evaluates: bool = False, **config: Any) -> Path:
    """Write NVFLARE's own hello-world client with a model and data of ours; nothing else of it is exchanged.

    ``evaluates``: in the form that asks for its task.
    """
    client = HELLO_CLIENT.replace(HELLO_STEPS, HELLO_EVALUATES + HELLO_STEPS) if evaluates else HELLO_CLIENT
    return _write(folder, {**HELLO_FILES, "trainer.py": client}, "ROW", {"BEST_MODEL_METRIC": "accuracy", **config})


STAGED_MODELS = """
import torch


class Latent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.autoencoder = torch.nn.Linear(3, 2)
        self.diffusion_model = torch.nn.Linear(2, 1)


def get_model():
    return Latent()
"""

# Two stages in one script, told apart by the names of their tasks.
STAGED_TRAINER = """
import nvflare.client as flare
import numpy as np
import torch
from models import get_model
from nvflare.client.tracking import SummaryWriter


def main():
    flare.init()
    writer = SummaryWriter()
    model = get_model()
    while flare.is_running():
        input_model = flare.receive()
        if input_model is None:
            break
        task_name = flare.get_task_name()
        model.load_state_dict({k: torch.as_tensor(v) for k, v in input_model.params.items()}, strict=False)
        part = model.autoencoder if task_name.endswith("_ae") else model.diffusion_model
        if task_name in ("train_ae", "train_dm"):
            with torch.no_grad():
                part.bias += 1.0
            writer.add_scalar("Total loss@epoch", float(part.bias.sum()), global_step=input_model.current_round + 1)
            diff = {k: v.numpy() - np.asarray(input_model.params[k]) for k, v in model.state_dict().items()}
            meta = {"NUM_STEPS_CURRENT_ROUND": 4, "stage": [task_name]}
            flare.send(flare.FLModel(params=diff, params_type="DIFF", meta=meta))
        elif task_name in ("validate_ae", "validate_dm"):
            flare.send(flare.FLModel(metrics={f"metrics_{task_name}": {"val_loss": float(part.bias[0])}}))


if __name__ == "__main__":
    main()
"""


def write_staged_script(folder: Path, **config: Any) -> Path:
    """Write a diffusion job's Client-API script: two rounds of its first stage and one of its second."""
    files = {"trainer.py": STAGED_TRAINER, "models.py": STAGED_MODELS}
    rounds = {"GLOBAL_ROUNDS_AE": 2, "GLOBAL_ROUNDS_DM": 1}
    return _write(folder, files, "ROW", {"job_type": "diffusion_model", **rounds, **config})


def write_neutral_twin(folder: Path, canary: str = "ROW", **config: Any) -> Path:
    """Write the neutral app that does what the script of ``write_script_app`` does."""
    return _write(folder, {"trainer.py": NEUTRAL}, canary, config)


def _write(folder: Path, files: dict[str, str], canary: str, config: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    settings = {"job_type": "standard", "GLOBAL_ROUNDS": 2, "IMAGING": False, **config}
    common = {"models.py": MODELS, "computation.py": COMPUTATION, "prepare.py": PREPARE.format(canary=canary)}
    for name, text in {**common, **files, "config.json": json.dumps(settings)}.items():
        (folder / name).write_text(text)
    return folder
