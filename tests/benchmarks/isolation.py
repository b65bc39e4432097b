"""What the walls around an app cost: a round of training behind them and without, and handing over a large model."""

from __future__ import annotations

import os
import statistics
import tempfile
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from flip_fl.app.calls import Call
from flip_fl.app.isolation import handover
from flip_fl.app.isolation.call import IsolatedCall
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.runner import Session, run_task
from flip_fl.app.site import SiteSpec
from flip_fl.values import Task
from tests.benchmarks.figures import Figure
from tests.support.app import TableSource, write_app

ROUND = "a round of training behind full isolation, beside none"
HANDOVER = "handing over a model of 100 MB"
MOST_OF_A_ROUND = 0.03
MOST_HANDOVER_S = 0.050
NO_LIMIT = 1 << 40

MODELS = """
import torch

def get_model():
    return torch.nn.Sequential(torch.nn.Linear(64, 1024), torch.nn.ReLU(), torch.nn.Linear(1024, 1024),
                               torch.nn.ReLU(), torch.nn.Linear(1024, 10))
"""
# As long as a short round of a small model takes; nothing of it is waiting.
TRAINER = """
import torch

def train(model, site, config):
    site.cohort()
    torch.set_num_threads(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(512, 64), torch.randint(10, (512,))
    for step in range({steps}):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        site.log("loss", float(loss), step, "step")
    return {{"num_examples": 512}}

def validate(model, site, config):
    return {{"num_examples": 512, "loss": 0.5}}
"""


@dataclass(frozen=True)
class Effort:
    """How long and how often is measured."""

    steps: int = 20
    rounds: int = 7
    bytes: int = 100 << 20
    handovers: int = 15


def measure() -> list[Figure]:
    """Both figures."""
    return figures(Effort())


def figures(effort: Effort) -> list[Figure]:
    """A round both ways by turns, and a model there and back."""
    walled, plain = round_seconds(effort)
    there = handover_seconds(effort)
    return [
        Figure(
            name=ROUND,
            value=walled,
            unit="s",
            rival=plain,
            goal="≤ 3 % more",
            met=walled <= plain * (1 + MOST_OF_A_ROUND),
        ),
        Figure(name=HANDOVER, value=there * 1000, unit="ms", rival=None, goal="≤ 50 ms", met=there <= MOST_HANDOVER_S),
    ]


def round_seconds(effort: Effort) -> tuple[float, float]:
    """The median round behind full walls and in this process, by turns, the first of each left out."""
    import torch

    from flip_fl.app.loader import AppLoader
    from flip_fl.app.tensors import to_arrays

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = textwrap.dedent(TRAINER).format(steps=effort.steps)
        app = write_app(Path(folder, "app"), models=MODELS, trainer=trainer)
        arrays = to_arrays(AppLoader(app).function("models", "get_model")())
        walled = IsolatedCall(Level.FULL, Isolation())
        ways: list[tuple[Session, Call | None, list[float]]] = [
            (Session(app, TableSource(), lambda batch: None), call, []) for call in (walled, None)
        ]
        try:
            for number in range(1, effort.rounds + 2):
                for session, call, found in ways:
                    spec = SiteSpec("Trust_1", number, effort.rounds + 1)
                    begun = time.perf_counter()
                    result = run_task(Task.TRAIN, arrays, spec, session, call)
                    found.append(time.perf_counter() - begun)
                    assert result.ok, result.failure
        finally:
            walled.close()
    behind, without = (statistics.median(found[1:]) for _, _, found in ways)
    return behind, without


def handover_seconds(effort: Effort) -> float:
    """The median of putting a model into shared memory and having it on the other side, ready to be read.

    Letting go of it again is left out: that is done by whoever has used it, when it is used.
    """
    arrays = {f"layer{n}": np.random.default_rng(n).random(effort.bytes // 80, np.float32) for n in range(20)}
    return statistics.median(_hand_over(arrays) for _ in range(effort.handovers))


def _hand_over(arrays: dict[str, np.ndarray]) -> float:  # type: ignore[type-arg]
    begun = time.perf_counter()
    memory = handover.put(arrays)
    taken = handover.take(os.dup(memory), NO_LIMIT)
    seconds = time.perf_counter() - begun
    os.close(memory)
    assert all(np.array_equal(taken[name], array) for name, array in arrays.items())
    return seconds
