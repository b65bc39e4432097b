"""Apps in the forms that exist, none of them knowing flip_fl: FLIP's Flower packages, and what ``flwr new`` writes."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

MODELS = """
import torch


def get_model():
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


def get_model_for_path(path):
    assert path == "linear"
    return get_model()
"""

TASK = """
import torch

from flip import FLIP
from flip.constants import FlipConstants
from flip.flower.identity import partition_cohort


def load_data(context):
    run = context.run_config
    frame = FLIP().get_dataframe(run.get("flip-project-id", "project"), run.get("flip-cohort-query", "*"))
    frame = partition_cohort(frame, context)
    x = torch.tensor(frame[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    return x, torch.tensor(frame["label"].to_numpy(), dtype=torch.float32)


def loss_of(model, data):
    x, y = data
    return torch.nn.functional.binary_cross_entropy_with_logits(model(x).squeeze(1), y)


def step(model, data, rate):
    loss = loss_of(model, data)
    model.zero_grad()
    loss.backward()
    with torch.no_grad():
        for each in model.parameters():
            if each.grad is not None:  # a frozen one has none
                each -= rate * each.grad
    return float(loss)
"""

CLIENT = """
import json
import os
from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from app.models import get_model
from app.task import load_data, loss_of, step
{imports}

app = ClientApp()


def _model(message):
    model = get_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return model


@app.train({mods})
def train(message: Message, context: Context) -> Message:
    {in_train}
    config = json.loads((Path(__file__).parent / "config.json").read_text())
    name = os.getenv("SUPERNODE_NAME", "unknown_client")
    number = int(message.content["config"]["server-round"])
    data, model = load_data(context), _model(message)
    run = context.run_config
    rate, epochs = run["learning-rate"], int(config.get("LOCAL_ROUNDS") or run["local-epochs"])
    metrics = {{}}
    for epoch in range(epochs):
        loss = step(model, data, rate)
        metrics[f"epoch_loss@epoch.x_{{(number - 1) * epochs + epoch + 1}}"] = loss
    metrics |= {{"train_loss": loss, "num-examples": len(data[1]), "num-iterations": epochs}}
    {before_reply}
    content = RecordDict({{
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord(metrics),
        "config": ConfigRecord({{"site": name}}),
    }})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    {in_evaluate}
    name = os.getenv("SUPERNODE_NAME", "unknown_client")
    data, model = load_data(context), _model(message)
    with torch.no_grad():
        metrics = {{"loss": float(loss_of(model, data)), "num-examples": len(data[1])}}
    content = RecordDict({{"metrics": MetricRecord(metrics), "config": ConfigRecord({{"client_name": name}})}})
    return Message(content, reply_to=message)
"""

SERVER = """
from flip import FLIP
from flip.constants import ModelStatus, PTConstants
from flip.flower.strategy import FlipFedAvg
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp

from app.models import get_model
{imports}

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context, flip=FLIP()) -> None:
    run = context.run_config
    model_id = run["flip-model-id"]
    flip.update_status(model_id, ModelStatus.INITIATED)
    {in_main}
    strategy = FlipFedAvg(flip=flip, model_id=model_id, fraction_train=1.0, fraction_evaluate=1.0)
    result = strategy.start(
        grid=grid, initial_arrays=ArrayRecord(get_model().state_dict()), num_rounds=run["num-server-rounds"]
    )
    import torch
    torch.save(result.arrays.to_torch_state_dict(), PTConstants.PTFileModelName)
    flip.upload_results_to_s3(".", model_id)
    flip.update_status(model_id, ModelStatus.RESULTS_UPLOADED)
"""

PROJECT = """
[project]
name = "{package}"
version = "1.0.0"

[tool.flwr.app]
publisher = "somebody"

[tool.flwr.app.components]
serverapp = "{package}.server_app:app"
clientapp = "{package}.client_app:app"

[tool.flwr.app.config]
{config}
"""

# As `flwr new` writes it: one package, ClientApp, ServerApp and task; the model and the data are smaller.
QUICKSTART_TASK = """
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(4, 8)
        self.fc2 = nn.Linear(8, 2)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))


def load_data(partition_id: int, num_partitions: int, batch_size: int):
    generator = torch.Generator().manual_seed(partition_id)
    x = torch.randn(64, 4, generator=generator)
    data = TensorDataset(x, (x.sum(1) > 0).long())
    return DataLoader(data, batch_size=batch_size), DataLoader(data, batch_size=batch_size)


def load_centralized_dataset():
    return load_data(7, 8, 32)[1]


def train(net, trainloader, epochs, lr, device):
    net.to(device)
    criterion = torch.nn.CrossEntropyLoss()
    net.train()
    running_loss = 0.0
    for _ in range(epochs):
        for x, y in trainloader:
            net.zero_grad()
            loss = criterion(net(x.to(device)), y.to(device))
            loss.backward()
            with torch.no_grad():
                for each in net.parameters():
                    each -= lr * each.grad
            running_loss += loss.item()
    return running_loss / (epochs * len(trainloader))


def test(net, testloader, device):
    net.to(device)
    correct, loss = 0, 0.0
    with torch.no_grad():
        for x, y in testloader:
            outputs = net(x.to(device))
            loss += torch.nn.CrossEntropyLoss()(outputs, y.to(device)).item()
            correct += (outputs.argmax(1) == y.to(device)).sum().item()
    return loss / len(testloader), correct / len(testloader.dataset)
"""

QUICKSTART_CLIENT = """
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from pytorchexample.task import Net, load_data
from pytorchexample.task import test as test_fn
from pytorchexample.task import train as train_fn

app = ClientApp()


@app.train()
def train(msg: Message, context: Context):
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)
    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    batch_size = context.run_config["batch-size"]
    trainloader, _ = load_data(partition_id, num_partitions, batch_size)
    train_loss = train_fn(model, trainloader, context.run_config["local-epochs"], msg.content["config"]["lr"], device)
    model_record = ArrayRecord(model.state_dict())
    metrics = {"train_loss": train_loss, "num-examples": len(trainloader.dataset)}
    content = RecordDict({"arrays": model_record, "metrics": MetricRecord(metrics)})
    return Message(content=content, reply_to=msg)


@app.evaluate()
def evaluate(msg: Message, context: Context):
    model = Net()
    model.load_state_dict(msg.content["arrays"].to_torch_state_dict())
    device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    model.to(device)
    partition_id = context.node_config["partition-id"]
    num_partitions = context.node_config["num-partitions"]
    _, valloader = load_data(partition_id, num_partitions, context.run_config["batch-size"])
    eval_loss, eval_acc = test_fn(model, valloader, device)
    metrics = {"eval_loss": eval_loss, "eval_acc": eval_acc, "num-examples": len(valloader.dataset)}
    return Message(content=RecordDict({"metrics": MetricRecord(metrics)}), reply_to=msg)
"""

QUICKSTART_SERVER = """
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from pytorchexample.task import Net, load_centralized_dataset, test

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    fraction_evaluate: float = context.run_config["fraction-evaluate"]
    num_rounds: int = context.run_config["num-server-rounds"]
    lr: float = context.run_config["learning-rate"]
    global_model = Net()
    arrays = ArrayRecord(global_model.state_dict())
    strategy = FedAvg(fraction_evaluate=fraction_evaluate)
    result = strategy.start(
        grid=grid,
        initial_arrays=arrays,
        train_config=ConfigRecord({"lr": lr}),
        num_rounds=num_rounds,
        evaluate_fn=global_evaluate,
    )
    print("\\nSaving final model to disk...")
    state_dict = result.arrays.to_torch_state_dict()
    torch.save(state_dict, "final_model.pt")


def global_evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    loss, accuracy = test(model, load_centralized_dataset(), torch.device("cpu"))
    return MetricRecord({"central_accuracy": accuracy, "central_loss": loss})
"""

QUICKSTART_CONFIG = """num-server-rounds = 2
fraction-evaluate = 1.0
local-epochs = 1
learning-rate = 0.1
batch-size = 32"""


def write_package(
    root: Path,
    *,
    server: bool = False,
    imports: str = "",
    server_imports: str = "",
    mods: str = "",
    in_train: str = "pass",
    in_evaluate: str = "pass",
    before_reply: str = "pass",
    in_main: str = "pass",
    run_config: str = "learning-rate = 0.5\nlocal-epochs = 7\nmine = 'kept'",
    **config: Any,
) -> Path:
    """A package of FLIP's form in ``root``: ``app/`` with client_app.py, config.json, models.py and its own task.py.

    ``server``: with a ``server_app.py`` of its own. The cohort lies in ``root/cohort.csv``. A key of ``config`` that
    is None is left out of config.json.
    """
    client = CLIENT.format(
        imports=imports, mods=mods, in_train=in_train, in_evaluate=in_evaluate, before_reply=before_reply
    )
    files = {"models.py": MODELS, "task.py": TASK, "client_app.py": client}
    if server:
        files["server_app.py"] = SERVER.format(imports=server_imports, in_main=in_main)
    settings = {"job_type": "standard", "GLOBAL_ROUNDS": 2, "LOCAL_ROUNDS": 2, "IMAGING": False, **config}
    write(root / "app", files, {key: value for key, value in settings.items() if value is not None})
    (root / "pyproject.toml").write_text(PROJECT.format(package="app", config=run_config))
    write_cohort(root / "cohort.csv")
    return root


STAGED_MODELS = """
import torch


class Second(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.autoencoder = get_model("ae").requires_grad_(False)
        self.head = torch.nn.Linear(1, 1)

    def forward(self, x):
        return self.head(self.autoencoder(x))


def get_model(stage):
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1) if stage == "ae" else Second()
"""


def write_staged_package(root: Path, **given: Any) -> Path:
    """A package of two stages: it reads in its config record which one a message is of. Else as ``write_package``."""
    write_package(root, **{"job_type": "diffusion_model", "GLOBAL_ROUNDS_AE": 1, "GLOBAL_ROUNDS_DM": 2, **given})
    app = root / "app"
    (app / "models.py").write_text(STAGED_MODELS)
    client = app / "client_app.py"
    staged = 'model = get_model(message.content["config"]["stage"])'
    client.write_text(client.read_text().replace("model = get_model()", staged))
    return root


EVALUATION_CLIENT = """
import os

import torch
from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from app.models import get_model
from app.task import load_data, loss_of
{imports}

app = ClientApp()


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    {in_evaluate}
    name = os.getenv("SUPERNODE_NAME", "unknown_client")
    data, model = load_data(context), get_model()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    with torch.no_grad():
        x, y = data
        right = ((model(x).squeeze(1) > 0) == (y > 0)).float().mean()
        metrics = {{"loss": float(loss_of(model, data)), "accuracy": float(right), "num-examples": len(y)}}
    content = RecordDict({{"metrics": MetricRecord(metrics), "config": ConfigRecord({{"client_name": name}})}})
    return Message(content, reply_to=message)
"""


def write_evaluation_package(root: Path, *, imports: str = "", in_evaluate: str = "pass") -> Path:
    """A package of FLIP's form that evaluates two models, one of which is not there; with a server_app.py, too."""
    import torch

    files = {
        "models.py": MODELS,
        "task.py": TASK,
        "client_app.py": EVALUATION_CLIENT.format(imports=imports, in_evaluate=in_evaluate),
        "server_app.py": "raise SystemExit('an evaluation is run by the platform')\n",
    }
    models = {"base": {"checkpoint": "base.pt", "path": "linear"}, "lost": {"checkpoint": "lost.pt", "path": "linear"}}
    write(root / "app", files, {"job_type": "evaluation", "IMAGING": False, "models": models})
    torch.save({"weight": torch.tensor([[1.0, 0.0, -1.0]]), "bias": torch.zeros(1)}, root / "app" / "base.pt")
    (root / "pyproject.toml").write_text(PROJECT.format(package="app", config=""))
    write_cohort(root / "cohort.csv")
    return root


def write_quickstart(root: Path) -> Path:
    """Flower's hello world in ``root``, with the two files that every app of FLIP has: config.json and models.py."""
    files = {
        "__init__.py": '"""pytorchexample: A Flower / PyTorch app."""\n',
        "task.py": QUICKSTART_TASK,
        "client_app.py": QUICKSTART_CLIENT,
        "server_app.py": QUICKSTART_SERVER,
        "models.py": "from pytorchexample.task import Net as get_model\n",
    }
    write(root / "pytorchexample", files, {"job_type": "standard"})
    (root / "pyproject.toml").write_text(PROJECT.format(package="pytorchexample", config=QUICKSTART_CONFIG))
    return root


def write(package: Path, files: dict[str, str], config: dict[str, Any]) -> None:
    package.mkdir(parents=True)
    for name, text in files.items():
        (package / name).write_text(text)
    (package / "config.json").write_text(json.dumps(config))


def write_cohort(path: Path, patients: int = 120) -> None:
    """Rows with three numbers and a label that follows from them; a patient has one row."""
    draw = random.Random(3)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["person_id", "a", "b", "c", "label"])
        for person in range(patients):
            values = [draw.gauss(0, 1) for _ in range(3)]
            rows.writerow([person, *(f"{value:.6f}" for value in values), int(values[0] - values[2] > 0)])
