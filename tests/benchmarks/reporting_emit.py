"""What a report costs the engine's thread, while the sender works on the same file as fast as it can.

Rounds of single reports, and of batches between them that keep the sender busy, with each state of the hub in turn.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import UUID

from flip_fl.reporting.session import Reporting, open_reporting
from flip_fl.reporting.stats import read_stats
from flip_fl.simulate.faults import HubFault
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_hub import HUNG, SLOW, BenchHub, bench_hub
from tests.benchmarks.flower_wrapping import quiet
from tests.benchmarks.reporting_hubs import AWAY, DocumentedClient, p99, report, report_many, seen, stored_at, timed

NAME = "cost on the engine's thread per metric, hub {hub}: {how}"
SINGLE, BATCHED = "single, p99", "in a batch of 100"
SPREAD = "cost on the engine's thread per metric: the dearest of the four hubs beside the cheapest, {how}"
HUBS: Mapping[str, HubFault | None] = {"at 0": None, "at 50 ms": SLOW, "hung": HUNG, "absent": AWAY}
TAKES = ("at 0", "at 50 ms")
MOST_SINGLE_S, MOST_BATCHED_S = 0.010, 0.0002
MOST_SPREAD = 2.0
BATCH = 100
SINGLES_A_BATCH = 10
PAUSE_S = 0.001
DELIVERY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Effort:
    """``repeats`` rounds of ``singles`` reports a state of the hub; ``posts`` of the rival in each."""

    repeats: int = 3
    singles: int = 1_000
    posts: Mapping[str, int] = field(default_factory=lambda: {"at 0": 200, "at 50 ms": 20})
    # One post waits for 30 s: once is enough.
    posts_hung: int = 1


@dataclass
class Cost:
    """Seconds of the reports that were made: each single one, each of a batch (its share), each of the rival's."""

    single_s: list[float] = field(default_factory=list)
    batched_s: list[float] = field(default_factory=list)
    rival_s: list[float] = field(default_factory=list)


def figures(costs: Mapping[str, Cost]) -> list[Figure]:
    """Two figures for each state of the hub, and two on how far the states are apart."""
    found = []
    for hub, cost in costs.items():
        single, batched = p99(cost.single_s), statistics.mean(cost.batched_s)
        rivals = (p99(cost.rival_s) * 1000, statistics.mean(cost.rival_s) * 1000) if cost.rival_s else (None, None)
        lost = "" if cost.rival_s else "; the rival's is lost"
        found.append(_figure(hub, SINGLE, single, rivals[0], f"≤ 10 ms{lost}", single <= MOST_SINGLE_S))
        found.append(_figure(hub, BATCHED, batched, rivals[1], f"≤ 0.2 ms{lost}", batched <= MOST_BATCHED_S))
    singles = [statistics.median(cost.single_s) for cost in costs.values()]
    batches = [statistics.median(cost.batched_s) for cost in costs.values()]
    return [*found, _spread("single, median", singles), _spread("in a batch of 100, median", batches)]


def measure() -> list[Figure]:
    """Every state of the hub."""
    return figures(measure_costs(Effort()))


def measure_costs(effort: Effort) -> dict[str, Cost]:
    """The costs by state of the hub; what was reported must be at the hub, or wait on the disk, to the last one."""
    costs = {name: Cost() for name in HUBS}
    with (
        tempfile.TemporaryDirectory() as folder,
        bench_hub(Path(folder, "hub"), 1) as hub,
        contextlib.ExitStack() as stack,
        quiet("flip_fl"),
    ):
        urls = {name: stack.enter_context(seen(hub.inner.url, fault)) for name, fault in HUBS.items()}
        for repeat, (name, url) in itertools.product(range(effort.repeats), urls.items()):
            model_id = hub.new_model(f"{repeat} {name}")
            reporting = open_reporting(hub.settings(url), model_id, Path(folder, f"{repeat} {name}"))
            made = emit(reporting, effort.singles, costs[name])
            _check(reporting, hub, model_id, made, takes=name in TAKES)
            costs[name].rival_s += _rival(hub, url, name, effort, repeat)
    return costs


def emit(reporting: Reporting, singles: int, cost: Cost) -> int:
    """Report ``singles`` metrics and, between them, batches; returns how many that were."""
    made = 0
    for number in range(singles):
        cost.single_s.append(timed(partial(report, reporting.reporter, made)))
        made += 1
        if number % SINGLES_A_BATCH == 0:
            batch = range(made, made + BATCH)
            cost.batched_s.append(timed(partial(report_many, reporting.reporter, batch)) / BATCH)
            made += BATCH
        time.sleep(PAUSE_S)
    return made


def _check(reporting: Reporting, hub: BenchHub, model_id: UUID, made: int, *, takes: bool) -> None:
    delivered = reporting.close(DELIVERY_TIMEOUT_S if takes else 0.5)
    stats = read_stats(reporting.path)
    assert delivered == takes, "a hub that takes reports must have them all, and another one none"
    assert not stats.losses, "nothing that is measured may be lost"
    assert (stored_at(hub, model_id), stats.pending) == ((made, 0) if takes else (0, made))


def _rival(hub: BenchHub, url: str, name: str, effort: Effort, repeat: int) -> Sequence[float]:
    posts = effort.posts.get(name, 0)
    client = DocumentedClient(url, hub.key, hub.new_model(f"{repeat} {name} posted"))
    if name == "hung" and repeat == 0:
        return [timed(partial(_lost, client)) for _ in range(effort.posts_hung)]
    return [timed(partial(client.metric, number)) for number in range(posts)]


def _lost(client: DocumentedClient) -> None:
    try:
        client.metric(0)
    except OSError:
        return
    raise AssertionError("a hung hub takes nothing")


def _figure(hub: str, how: str, seconds: float, rival_ms: float | None, goal: str, met: bool) -> Figure:
    return Figure(NAME.format(hub=hub, how=how), seconds * 1000, "ms", rival_ms, goal, met)


def _spread(how: str, seconds: Sequence[float]) -> Figure:
    spread = max(seconds) / min(seconds)
    return Figure(SPREAD.format(how=how), spread, "×", None, f"≤ {MOST_SPREAD:g} ×", spread <= MOST_SPREAD)
