"""How fast what waits reaches the hub: rows in its database, beside one POST for every metric."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flip_fl.reporting.session import Reporting
from flip_fl.simulate.faults import HubFault
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_hub import SLOW, BenchHub, bench_hub
from tests.benchmarks.flower_wrapping import quiet
from tests.benchmarks.reporting_hubs import DocumentedClient, report_many, seen, stored_at, timed

NAME = "drained per second to the hub {link}, stored rows counted"
LOOPBACK, FAR = "on loopback", "at 50 ms of latency"
LINKS: Mapping[str, HubFault | None] = {LOOPBACK: None, FAR: SLOW}
TIMES: Mapping[str, float] = {LOOPBACK: 20, FAR: 300}
FILL = 1_000
DRAIN_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Effort:
    """``repeats`` times ``events`` of ours and ``posts`` of the rival's, by turns, on each link."""

    repeats: int = 3
    events: int = 20_000
    posts: Mapping[str, int] = field(default_factory=lambda: {LOOPBACK: 600, FAR: 40})


@dataclass
class Drained:
    """Events a second, one number a repeat."""

    ours: list[float] = field(default_factory=list)
    rival: list[float] = field(default_factory=list)


def figures(found: Mapping[str, Drained]) -> list[Figure]:
    """One figure a link: the medians."""
    made = []
    for link, drained in found.items():
        ours, rival = statistics.median(drained.ours), statistics.median(drained.rival)
        goal = f"≥ {TIMES[link]:g} × the rival"
        made.append(Figure(NAME.format(link=link), ours, "events/s", rival, goal, ours >= TIMES[link] * rival))
    return made


def measure() -> list[Figure]:
    """Both links."""
    return figures(measure_drain(Effort()))


def measure_drain(effort: Effort) -> dict[str, Drained]:
    """Events a second by link."""
    found = {link: Drained() for link in LINKS}
    with (
        tempfile.TemporaryDirectory() as folder,
        bench_hub(Path(folder, "hub"), 1) as hub,
        contextlib.ExitStack() as stack,
        quiet("flip_fl"),
    ):
        urls = {link: stack.enter_context(seen(hub.inner.url, fault)) for link, fault in LINKS.items()}
        for repeat, (link, url) in itertools.product(range(effort.repeats), urls.items()):
            found[link].ours.append(drain(hub, url, Path(folder, f"{repeat} {link}"), effort.events))
            found[link].rival.append(post(hub, url, effort.posts[link]))
    return found


def drain(hub: BenchHub, url: str, folder: Path, events: int) -> float:
    """Events a second of a sender that is started on an outbox with ``events`` in it."""
    model_id = hub.new_model(folder.name)
    reporting = Reporting(hub.settings(url), model_id, folder)
    for first in range(0, events, FILL):
        report_many(reporting.reporter, range(first, min(first + FILL, events)))

    def deliver() -> None:
        reporting.start()
        # Returns when the outbox is empty: no polling is measured along.
        assert reporting.close(DRAIN_TIMEOUT_S), "the hub must take everything"

    seconds = timed(deliver)
    assert stored_at(hub, model_id) == events
    return events / seconds


def post(hub: BenchHub, url: str, posts: int) -> float:
    """Metrics a second of the documented client."""
    client = DocumentedClient(url, hub.key, hub.new_model("posted"))

    def post_all() -> None:
        for number in range(posts):
            client.metric(number)

    seconds = timed(post_all)
    assert stored_at(hub, client.model_id) == posts
    return posts / seconds
