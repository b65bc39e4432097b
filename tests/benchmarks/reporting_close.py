"""What the end of a run takes longer because its reports cannot be delivered: a full outbox and a hub that hangs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.reporting.session import open_reporting, sync
from flip_fl.reporting.stats import read_stats
from tests.benchmarks.figures import Figure
from tests.benchmarks.flower_hub import HUNG, BenchHub, bench_hub
from tests.benchmarks.flower_wrapping import quiet
from tests.benchmarks.reporting_hubs import report_many, seen, stored_at, timed

NAME = "added to the end of the run with {queued:,} events queued and the hub hung"
MOST_S = 5.0
QUEUED = 10_000
FILL = 1_000


@dataclass(frozen=True)
class Effort:
    """``queued`` events; the run ends so many seconds after the last of them."""

    queued: int = QUEUED
    # With nothing sent yet, within the first request, and when it is known that the hub does not answer.
    waits_s: Sequence[float] = (0.0, 1.5, 6.0)


def figures(seconds: Sequence[float], queued: int = QUEUED) -> list[Figure]:
    """The longest of all ends."""
    worst = max(seconds)
    return [Figure(NAME.format(queued=queued), worst, "s", None, "≤ 5 s", worst <= MOST_S)]


def measure() -> list[Figure]:
    """Runs that end at different times after their last report."""
    effort = Effort()
    return figures(measure_ends(effort), effort.queued)


def measure_ends(effort: Effort) -> list[float]:
    """Seconds of the end, for each of the waits; what was queued is delivered afterwards, by another process's way."""
    with (
        tempfile.TemporaryDirectory() as folder,
        bench_hub(Path(folder, "hub"), 1) as hub,
        seen(hub.inner.url, HUNG) as url,
        quiet("flip_fl"),
    ):
        return [end(hub, url, Path(folder, str(wait_s)), effort.queued, wait_s) for wait_s in effort.waits_s]


def end(hub: BenchHub, url: str, folder: Path, queued: int, wait_s: float) -> float:
    """Seconds that the end of a run takes, ``wait_s`` after its last metric."""
    model_id = hub.new_model(folder.name)
    reporting = open_reporting(hub.settings(url), model_id, folder)
    reporting.lifecycle.initiated()
    for first in range(0, queued, FILL):
        report_many(reporting.reporter, range(first, min(first + FILL, queued)))
    time.sleep(wait_s)

    def finish() -> None:
        reporting.lifecycle.finish()
        assert not reporting.close(), "a hung hub takes nothing"

    seconds = timed(finish)
    assert read_stats(reporting.path).pending >= queued, "what could not be delivered stays"
    (result,) = sync([reporting.path], hub.settings(hub.inner.url))
    assert result.ok, result
    assert stored_at(hub, model_id) == queued
    return seconds
