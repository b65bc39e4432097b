"""What our grid, watcher and reporting add to a round, and what a POST for every metric adds to the same round.

The clients answer at once, one after another in the server's own process, and one round follows upon the other: there
is no pause to work in, so that all we do is on the round's bill, the sender's work too. Beside that, the same with
clients that work for two seconds and more in each phase, at the same time, as they do at sites of their own.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

import numpy as np
import requests
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from flip_fl.flower.checkpoint import StrategyState
from flip_fl.flower.compare import Measure
from flip_fl.flower.grid import FlipGrid, Patience, Quorum
from flip_fl.flower.local_grid import LocalGrid
from flip_fl.flower.local_site import DirectSite
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.strategy import ObservedStrategy
from flip_fl.reporting.session import Reporting, open_reporting
from flip_fl.reporting.stats import read_stats
from flip_fl.simulate.faults import HubFault
from flip_fl.values import Task
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_hub import HUNG, SLOW, BenchHub, bench_hub
from tests.benchmarks.flower_paced import paced

NAME = "what our wrapping adds to a round with {clients} clients, {metrics} metrics each, hub {hub}"
AT_WORK = "; clients at work for 2 s and more"
CLIENTS = (2, 8, 32, 100)
METRICS = 10
HUBS: Mapping[str, HubFault] = {"at 50 ms": SLOW, "hung": HUNG}
MOST_ADDED_S, MOST_ADDED_SHARE = 0.020, 0.01
# Long enough for the sender, which sends once a second, to have worked in every block.
BLOCK_S = 1.0
PAIRS = 3
# A block of one round: a pause of the machine in one of few would be the figure.
PACED_PAIRS = 5
MAX_BLOCK_ROUNDS = 150
WARM_UP_ROUNDS = 3
DRAIN_TIMEOUT_S = 120.0
POST_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Pace:
    """For how many seconds a client works in each phase, at least and at most; all of them at the same time."""

    least_s: float
    most_s: float


@dataclass(frozen=True)
class Added:
    """Seconds of a bare round, and what the same round takes longer; ``rival_s`` with a POST for every metric.

    The clients are ``at_work``, or answer at once, one after another.
    """

    clients: int
    hub: str
    bare_s: float
    added_s: float
    rival_s: float | None = None
    at_work: bool = True

    @property
    def name(self) -> str:
        return NAME.format(clients=self.clients, metrics=METRICS, hub=self.hub) + (AT_WORK if self.at_work else "")

    @property
    def met(self) -> bool:
        return self.added_s <= max(MOST_ADDED_S, MOST_ADDED_SHARE * self.bare_s)


@dataclass(frozen=True)
class Effort:
    """How much is measured: ``pairs`` of a block of bare and one of wrapped rounds, each ``block_s`` seconds long.

    With clients at work a block is one round, and there are ``paced_pairs``.
    """

    clients: Sequence[int] = CLIENTS
    block_s: float = BLOCK_S
    pairs: int = PAIRS
    paced_pairs: int = PACED_PAIRS
    pace: Pace = Pace(2.0, 2.5)


def figures(found: Sequence[Added]) -> list[Figure]:
    """One figure for each number of clients, state of the hub, and kind of client."""
    goal = f"≤ {MOST_ADDED_SHARE:.0%} or {MOST_ADDED_S * 1000:.0f} ms"
    return [Figure(each.name, each.added_s, "s a round", each.rival_s, goal, each.met) for each in found]


def measure() -> list[Figure]:
    """Every number of clients, with a hub at 50 ms and with one that hangs."""
    return figures(measure_added(Effort()))


def measure_added(effort: Effort) -> list[Added]:
    """Bare and wrapped rounds by turns, on the same grid with the same clients.

    A POST is not tried at a hub that hangs: it would never end.
    """
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        bench_hub(Path(folder, "hub"), max(effort.clients)) as hub,
        quiet("flwr", "flip_fl"),
    ):
        for clients, (name, fault) in itertools.product(effort.clients, HUBS.items()):
            room, drains = Path(folder, f"{clients} {name}"), fault is SLOW
            with hub.behind(fault) as url:
                rival_s = measure_posts(clients, hub, url) if drains else None
                link = Link(hub, url, drains)
                with paced(direct_sites(clients), effort.pace.least_s, effort.pace.most_s) as sites:
                    blocks = Blocks(effort.paced_pairs)
                    bare_s, added_s = measure_blocks(LocalGrid(sites), link, room / "at work", blocks)
                found.append(Added(clients, name, bare_s, added_s, rival_s))
                grid, blocks = LocalGrid(direct_sites(clients)), Blocks(effort.pairs, effort.block_s)
                bare_s, added_s = measure_blocks(grid, link, room / "at once", blocks)
                found.append(Added(clients, name, bare_s, added_s, rival_s, at_work=False))
    return found


@dataclass(frozen=True)
class Link:
    """The hub as the server sees it at ``url``; ``drains``: it takes reports."""

    hub: BenchHub
    url: str
    drains: bool

    def open(self, folder: Path) -> Reporting:
        """Report on a model of its own."""
        return open_reporting(self.hub.settings(self.url), self.hub.new_model(str(folder)), folder)


@dataclass(frozen=True)
class Blocks:
    """So many ``pairs`` of blocks, each of as many rounds as last ``seconds`` (None: of one)."""

    pairs: int
    seconds: float | None = None


def measure_blocks(grid: Grid, link: Link, folder: Path, blocks: Blocks) -> tuple[float, float]:
    """Seconds of a bare round, and the median of what a wrapped one next to it took longer.

    Where the hub takes reports, a bare block begins when
    all of them are delivered, and nothing is lost.
    """
    clients = len(list(grid.get_node_ids()))
    bare = partial(run_rounds, partial(fed_avg(clients).start, grid))
    reporting = link.open(folder)
    try:
        wrapped = Wrapped(grid, clients, reporting, folder)
        rounds = 1
        if blocks.seconds is not None:
            wrapped.run(WARM_UP_ROUNDS)
            wanted = round(blocks.seconds / bare(WARM_UP_ROUNDS))
            rounds = min(MAX_BLOCK_ROUNDS, max(WARM_UP_ROUNDS, wanted))
        pairs = []
        for _ in range(blocks.pairs):
            if link.drains:
                wait_delivered(reporting)
            pairs.append((bare(rounds), wrapped.run(rounds)))
        if link.drains:
            wait_delivered(reporting)
        stats = read_stats(reporting.path)
        assert not stats.losses, "nothing that is measured may be lost"
        assert not stats.dead, "the hub must take everything"
        assert link.drains or stats.last_ack is None, "a hung hub takes nothing"
    finally:
        reporting.close(0.5)
    return statistics.median(each[0] for each in pairs), statistics.median(each[1] - each[0] for each in pairs)


class Wrapped:
    """FedAvg behind our grid and watcher; its rounds count up from block to block."""

    def __init__(self, grid: Grid, clients: int, reporting: Reporting, folder: Path) -> None:
        self._clients = clients
        self._reporting = reporting
        self._folder = folder
        self._done = 0
        slots = [f"Trust_{number}" for number in range(1, clients + 1)]
        self._grid = FlipGrid(grid, reporting, slots=slots, quorum=Quorum(), patience=Patience(), total_rounds=10_000)
        reporting.lifecycle.initiated()
        self._grid.await_sites()
        reporting.lifecycle.prepared()

    def run(self, number: int) -> float:
        """Seconds for each of ``number`` further rounds."""
        strategy = fed_avg(self._clients)
        rounds = Rounds(
            grid=self._grid,
            lifecycle=self._reporting.lifecycle,
            folder=self._folder,
            total=10_000,
            state=StrategyState(strategy),
            expected=self._clients,
            measure=Measure(),
        )
        observed = ObservedStrategy(strategy, rounds, offset=self._done)
        seconds = run_rounds(partial(observed.start, self._grid), number)
        self._done += number
        assert rounds.done == self._done
        return seconds


class PostingFedAvg(FedAvg):
    """FedAvg that tells a hub of every metric of every client, on a connection of its own, before it goes on."""

    def tell(self, url: str, key: str, model_id: UUID, names: Mapping[int, str]) -> None:
        """Say where to."""
        self._route, self._key, self._names = f"{url}/model/{model_id}/metrics", key, names
        self.posts = 0

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        replies = list(replies)
        self._post(server_round, replies)
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        replies = list(replies)
        self._post(server_round, replies)
        return super().aggregate_evaluate(server_round, replies)

    def _post(self, number: int, replies: Sequence[Message]) -> None:
        for reply in replies:
            (record,) = reply.content.metric_records.values()
            client = self._names[reply.metadata.src_node_id]
            for label, value in record.items():
                if label == self.weighted_by_key:
                    continue
                body = {"fl_client_name": client, "global_round": number, "label": label, "result": value}
                headers = {"X-Internal-Service-Key": self._key}
                requests.post(self._route, json=body, headers=headers, timeout=POST_TIMEOUT_S).raise_for_status()
                self.posts += 1


def measure_posts(clients: int, hub: BenchHub, url: str) -> float:
    """What one round takes longer when every metric is posted as it is aggregated, in seconds."""
    grid = LocalGrid(direct_sites(clients))
    bare_s = run_rounds(partial(fed_avg(clients).start, grid), WARM_UP_ROUNDS)
    strategy = fed_avg(clients, PostingFedAvg)
    names = {node.node_id: node.name for node in grid.get_nodes()}
    strategy.tell(url, hub.key, hub.new_model(f"{clients} posting"), names)
    added_s = run_rounds(partial(strategy.start, grid), 1) - bare_s
    assert strategy.posts == 2 * METRICS * clients
    return added_s


# -- what the rounds are made of --------------------------------------------------------------------------------------


def run_rounds(start: Callable[..., object], number: int) -> float:
    """Seconds for each of ``number`` rounds of a strategy's ``start``, from a small model on."""
    gc.collect()
    model = ArrayRecord({"weight": Array(np.zeros((8, 8), dtype=np.float32))})
    begun = time.perf_counter()
    start(model, num_rounds=number)
    return (time.perf_counter() - begun) / number


def fed_avg(clients: int, kind: type[FedAvg] = FedAvg) -> FedAvg:
    """FedAvg over all of ``clients``."""
    return kind(min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients)


def direct_sites(clients: int) -> list[DirectSite]:
    """``Trust_1`` … in this process."""
    app = client_app()
    return [DirectSite(f"Trust_{number}", app) for number in range(1, clients + 1)]


def client_app() -> ClientApp:
    """Moves the model a little and measures ten numbers in each phase."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        weight = message.content["arrays"]["weight"].numpy()
        arrays = ArrayRecord({"weight": Array(weight + np.float32(0.01))})
        return Message(RecordDict({"arrays": arrays, "metrics": measured(Task.TRAIN)}), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return Message(RecordDict({"metrics": measured(Task.VALIDATE)}), reply_to=message)

    return app


def measured(task: Task) -> MetricRecord:
    numbers = {f"{task.value}_metric_{number}": number / 7 for number in range(METRICS)}
    return MetricRecord({"num-examples": 10, **numbers})


def wait_delivered(reporting: Reporting) -> None:
    """Return when the hub has every report."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while read_stats(reporting.path).pending:
        assert time.monotonic() < deadline, "the hub at 50 ms must take the reports in time"
        time.sleep(0.05)


@contextlib.contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Only warnings of these loggers: what a terminal takes to show lines is not measured."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
