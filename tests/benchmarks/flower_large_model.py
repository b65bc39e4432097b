"""A model of 100 MB in a real deployment: our grid and watcher beside Flower's own grid, on the same nodes.

Random numbers, new ones from each client in each round: Flower sends equal arrays once only.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.figures import Figure
from tests.support.flower_deployment import Deployment, deployment, eventually, write_app

NAME = "{megabytes} MB model, {clients} clients, deployment: {what}"
SECONDS, MEMORY = "seconds a round", "peak memory of the ServerApp"
CLIENTS, MEGABYTES = 2, 100
MOST = 1.1
OURS, DEFAULT = "ours", "default"
# Three rounds each, in an order that a machine which gets slower, or a SuperLink whose database grows, does not favour;
# and two of them in one run, because the second round's model is there beside the first one's.
RUNS = ((DEFAULT, 2), (OURS, 2), (OURS, 1), (DEFAULT, 1))
RUN_TIMEOUT_S = 600.0

SERVER_APP = '''
"""FedAvg over all nodes, behind our grid and watcher or as it is; writes down what it took."""

import json
import time
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg

LAYERS = 10

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    random = np.random.default_rng(1)
    size = config["megabytes"] * 1_000_000 // 4 // LAYERS
    arrays = ArrayRecord({f"layer_{n}": Array(random.random(size, dtype=np.float32)) for n in range(LAYERS)})
    clients = config["clients"]
    strategy = FedAvg(min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients)
    start = partial(strategy.start, grid) if config["grid"] == "default" else wrapped(strategy, grid, config)
    ends = []

    def note(number, arrays):
        ends.append(time.monotonic())

    start(arrays, num_rounds=config["rounds"], evaluate_fn=note)
    seconds = [end - begun for begun, end in zip(ends, ends[1:])]
    told = Path(config["told"])
    told.with_suffix(".tmp").write_text(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))
    told.with_suffix(".tmp").rename(told)


def wrapped(strategy, grid, config):
    from flip_fl.flower.checkpoint import StrategyState
    from flip_fl.flower.compare import Measure
    from flip_fl.flower.grid import FlipGrid
    from flip_fl.flower.rounds import Rounds
    from flip_fl.flower.strategy import ObservedStrategy
    from flip_fl.reporting.local import LocalReporting

    folder = Path(config["told"]).with_suffix(".run")
    reporting = LocalReporting(uuid4(), folder)
    slots = [f"Trust_{n}" for n in range(1, config["clients"] + 1)]
    flip_grid = FlipGrid(grid, reporting, slots=slots, total_rounds=config["rounds"])
    rounds = Rounds(
        grid=flip_grid,
        lifecycle=reporting.lifecycle,
        folder=folder,
        total=config["rounds"],
        state=StrategyState(strategy),
        expected=len(flip_grid.await_sites()),
        measure=Measure(),
    )
    return partial(ObservedStrategy(strategy, rounds).start, flip_grid)


def peak_mb():
    """The most memory that this process ever had. (What getrusage says counts the process before its exec, too.)"""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024 / 1_000_000
'''

CLIENT_APP = '''
"""Other weights from each client in each round, and one number from each phase."""

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message, context):
    random = np.random.default_rng()
    arrays = ArrayRecord()
    for name, array in message.content["arrays"].items():
        arrays[name] = Array(array.numpy() + random.random(dtype=np.float32))
    metrics = MetricRecord({"num-examples": 10, "train_loss": 0.5})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    loss = float(message.content["arrays"]["layer_0"].numpy().mean())
    return Message(RecordDict({"metrics": MetricRecord({"num-examples": 10, "loss": loss})}), reply_to=message)
'''


@dataclass(frozen=True)
class Cost:
    """What a run took: the seconds of each round, the most memory that the ServerApp's process ever had, in MB."""

    seconds: tuple[float, ...]
    peak_mb: float

    @classmethod
    def read(cls, path: Path) -> Cost:
        """What the ServerApp wrote down at its end."""
        told = json.loads(path.read_text(encoding="utf-8"))
        return cls(tuple(told["seconds"]), told["peak_mb"])

    @classmethod
    def of(cls, several: Sequence[Cost]) -> Cost:
        """Several runs as one."""
        seconds = tuple(second for cost in several for second in cost.seconds)
        return cls(seconds, max(cost.peak_mb for cost in several))


def figures(costs: Mapping[str, Cost]) -> list[Figure]:
    """Seconds (median) and memory beside those of the default grid."""
    ours, default = costs[OURS], costs[DEFAULT]
    rounds = len(ours.seconds)
    seconds = (statistics.median(ours.seconds), statistics.median(default.seconds))
    memory = (ours.peak_mb, default.peak_mb)
    return [
        Figure(
            name=NAME.format(megabytes=MEGABYTES, clients=CLIENTS, what=what),
            value=value,
            unit=unit,
            rival=rival,
            goal=f"≤ {MOST} × the default grid's, {how}",
            met=value <= MOST * rival,
        )
        for what, (value, rival), unit, how in (
            (SECONDS, seconds, "s", f"median of {rounds}"),
            (MEMORY, memory, "MB", f"most of {rounds} rounds"),
        )
    ]


def measure() -> list[Figure]:
    """One run after the other on the same nodes."""
    return figures(measure_costs())


def measure_costs(runs: Sequence[tuple[str, int]] = RUNS, megabytes: int = MEGABYTES) -> dict[str, Cost]:
    """What ``runs`` (grid, rounds), one after another, cost by grid."""
    costs: dict[str, list[Cost]] = {}
    with tempfile.TemporaryDirectory() as folder:
        job = write_job(Path(folder, "job"), megabytes)
        with deployment(Path(folder, "deployment")) as there:
            there.add_nodes(*(f"Trust_{number}" for number in range(1, CLIENTS + 1)))
            for number, (grid, rounds) in enumerate(runs):
                cost = _cost(there, job, grid, rounds, Path(folder, f"{number}.json"))
                costs.setdefault(grid, []).append(cost)
    return {grid: Cost.of(several) for grid, several in costs.items()}


def write_job(folder: Path, megabytes: int) -> Path:
    """The job's folder; ``grid``, ``rounds`` and ``told`` of its run config are for who submits it."""
    numbers = {"megabytes": megabytes, "rounds": 1, "clients": CLIENTS}
    return write_app(folder, SERVER_APP, CLIENT_APP, grid=DEFAULT, told="", **numbers)


def _cost(there: Deployment, job: Path, grid: str, rounds: int, told: Path) -> Cost:
    run_id = there.submit(job, grid=grid, rounds=rounds, told=str(told))
    # To ask Flower how the run is takes a second of processor time: now and then only.
    looks = iter(range(1, 1_000_000))

    def ended() -> bool:
        return told.is_file() or (next(looks) % 60 == 0 and there.run(run_id).status.startswith("finished"))

    eventually(ended, RUN_TIMEOUT_S, f"the end of the run with the {grid} grid", poll_s=0.5)
    assert told.is_file(), there.log(run_id)
    # The next one must find the nodes idle.
    there.wait_finished(run_id, RUN_TIMEOUT_S)
    return Cost.read(told)
