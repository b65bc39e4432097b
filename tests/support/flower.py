"""Flower without torch: a ClientApp of plain numpy whose updates are known, and a run of it behind our grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.aggregate.average import cast
from flip_fl.flower.checkpoint import StrategyState
from flip_fl.flower.compare import measure_of
from flip_fl.flower.grid import FlipGrid, Patience, Quorum
from flip_fl.flower.handling import DirectHandling
from flip_fl.flower.local_grid import LocalGrid
from flip_fl.flower.local_site import DirectSite
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.strategy import ObservedStrategy
from flip_fl.reporting.local import LocalReporting

DTYPES = {"weight": np.float32, "scale": np.float32, "num_batches_tracked": np.int64}


def initial(*, buffer: bool = True) -> ArrayRecord:
    """A model with a matrix, a 0-d float and a whole-number buffer, which Flower's clipping cannot take."""
    arrays = {
        "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        "scale": np.array(0.5, dtype=np.float32),
        "num_batches_tracked": np.array([7], dtype=np.int64),
    }
    kept = {name: Array(array) for name, array in arrays.items() if buffer or array.dtype.kind == "f"}
    return ArrayRecord(kept)


def numpy_client() -> ClientApp:
    """Moves the model by a step that depends on site and round alone; the number of examples differs by site."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["number"])
        round_ = int(message.content.config_records["config"]["server-round"])
        (sent,) = message.content.array_records.values()
        random = np.random.default_rng([number, round_])
        arrays = {}
        for name, array in sent.items():
            # As a model takes it over, whatever dtype the server has made of it.
            value = cast(array.numpy(), np.dtype(DTYPES[name]))
            step = random.normal(size=value.shape) * 0.1 if value.dtype.kind == "f" else 10 * number
            arrays[name] = Array(np.asarray(value + step).astype(value.dtype))
        metrics = MetricRecord({"num-examples": 10 * number, "train_loss": float(random.random())})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        (sent,) = message.content.array_records.values()
        loss = float(np.square(sent["weight"].numpy()).mean())
        metrics = MetricRecord({"num-examples": 10 * int(context.node_config["number"]), "loss": loss})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def direct_grid(sites: int, client: ClientApp | None = None) -> LocalGrid:
    """``Trust_1`` … in this process, one after another."""
    app = client or numpy_client()
    return LocalGrid([DirectSite(f"Trust_{n}", app, run_config={}, node_config={"number": n}) for n in slots_of(sites)])


def slots_of(sites: int) -> Sequence[int]:
    return range(1, sites + 1)


def run_observed(
    strategy: Strategy,
    folder: Path,
    sites: int,
    rounds: int,
    client: ClientApp | None = None,
    model: ArrayRecord | None = None,
) -> Result:
    """``strategy`` behind our grid and watcher; the reports lie in ``folder``'s outbox."""
    reporting = LocalReporting(uuid4(), folder)
    slots = [f"Trust_{number}" for number in slots_of(sites)]
    grid = FlipGrid(
        direct_grid(sites, client), reporting, slots=slots, quorum=Quorum(), patience=Patience(), total_rounds=rounds
    )
    watcher = Rounds(
        grid=grid,
        lifecycle=reporting.lifecycle,
        folder=folder / "run",
        total=rounds,
        state=StrategyState(strategy),
        measure=measure_of(DirectHandling(strategy)),
    )
    try:
        watcher.expected = len(grid.await_sites())
        return ObservedStrategy(strategy, watcher).start(grid, model or initial(), num_rounds=rounds)
    finally:
        reporting.close()
