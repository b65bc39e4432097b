"""A strategy in this process and one in its ServerApp's process give the server the same: one suite for both."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, Result, Strategy

from flip_fl.aggregate.optimizers import ServerOptimizer, read_optimizer
from flip_fl.flower.average import SlotOrderFedAvg
from flip_fl.flower.handling import DirectHandling, Handling
from flip_fl.flower.hosted_guest import NODES, START, Desk
from flip_fl.flower.hosted_peer import Peer
from flip_fl.flower.hosted_strategy import RemoteHandling
from tests.support.flower import direct_grid, initial

Body = Callable[[Handling], None]
Handled = Callable[[Strategy, Body], None]
GIVEN = {"num_rounds": 1, "timeout": 1.0, "train_config": None, "evaluate_config": None, "evaluate_fn": None}


def direct(strategy: Strategy, body: Body) -> None:
    body(DirectHandling(strategy))


def remote(strategy: Strategy, body: Body) -> None:
    """The strategy stands at the desk of a thread in the place of its process: over a socket, as there."""
    here, there = socket.socketpair()
    grid = direct_grid(2)
    problems: list[Exception] = []

    def guest() -> None:
        desk = Desk(grid.run)
        peer = Peer(there, desk.handlers, str)
        desk.start(peer, None, strategy, {"initial_arrays": initial(), **GIVEN})
        peer.over(None)

    def start(said: dict[str, Any], given: dict[str, Any]) -> Result:
        try:
            body(RemoteHandling(peer, said))
        except Exception as error:
            problems.append(error)
        return Result()

    nodes = [(node.node_id, node.name) for node in grid.get_nodes()]
    peer = Peer(here, {START: start, NODES: lambda: nodes}, str)
    thread = threading.Thread(target=guest)
    thread.start()
    with here, there:
        peer.serve()
        thread.join(60)
    for problem in problems:
        raise problem


@pytest.fixture(params=[direct, remote])
def handled(request: pytest.FixtureRequest) -> Handled:
    found: Handled = request.param
    return found


@pytest.fixture
def grid() -> Grid:
    return direct_grid(2)


def replies(messages: list[Message], value: float) -> list[Message]:
    """What two sites return."""
    made = []
    for number, message in enumerate(messages):
        arrays = ArrayRecord({name: Array(np.full_like(a.numpy(), value + number)) for name, a in initial().items()})
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1, "loss": 0.5})})
        made.append(Message(content, reply_to=message))
    return made


def test_what_it_says_of_itself(handled: Handled) -> None:
    """Name, weights and what it waits for: a run that could never start is refused wherever the strategy is."""

    def body(handling: Handling) -> None:
        assert (handling.name, handling.weight_key) == ("FedAvg", "cases")
        assert handling.unsatisfiable(3) is None
        assert handling.unsatisfiable(2) == "FedAvg waits for 3 sites and there are 2: give it min_available_nodes=2"
        told.append(handling)

    told: list[Handling] = []
    handled(FedAvg(weighted_by_key="cases", min_available_nodes=3), body)
    assert told


def test_a_round_and_what_it_has_learnt(handled: Handled, grid: Grid) -> None:
    """The hooks give models and metrics; momenta come back into a newly made strategy, as after a restart."""
    kept: list[dict[str, Any]] = []

    def learn(handling: Handling) -> None:
        assert handling.state.unkept() == []
        sent = list(handling.strategy.configure_train(1, initial(), ConfigRecord(), grid))
        assert len(sent) == 2
        arrays, metrics = handling.strategy.aggregate_train(1, replies(sent, 1.0))
        assert arrays is not None
        assert metrics is not None
        assert metrics["loss"] == 0.5
        kept.append(dict(handling.state.changed()["own"]))

    def restart(handling: Handling) -> None:
        handling.state.restore({"own": kept[0], "inner": {}})
        kept.append(dict(handling.state.changed()["own"]))

    handled(FedAdam(), learn)
    handled(FedAdam(), restart)
    first, again = kept
    assert sorted(first) == sorted(again)
    momenta = [name for name, value in first.items() if isinstance(value, dict)]
    assert momenta
    for name in momenta:
        for key, value in first[name].items():
            np.testing.assert_array_equal(value, again[name][key])


def test_a_stage_begins_with_an_optimizer_that_knows_what_it_moves(handled: Handled) -> None:
    """Buffers are averaged and not optimized."""
    optimizer = ServerOptimizer(read_optimizer("adam"))
    strategy = SlotOrderFedAvg(optimizer=optimizer)
    handled(strategy, lambda handling: handling.begin_stage(frozenset({"weight"}), anew=True))
    assert optimizer.trainable == frozenset({"weight"})
