"""The benchmarks of reporting and of the hub: their names, when a goal counts as met, and that small ones measure."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.benchmarks import (
    hub_load,
    reporting_close,
    reporting_drain,
    reporting_emit,
    reporting_hubs,
    reporting_nvflare,
)
from tests.benchmarks.figures import Figure, write
from tests.benchmarks.hub_load import POSTGRES, SQLITE, Load
from tests.benchmarks.reporting_drain import FAR, LOOPBACK, Drained
from tests.benchmarks.reporting_emit import Cost
from tests.benchmarks.reporting_nvflare import OFF, RIVAL, Took

COSTS = {name: Cost([0.001] * 200, [0.0001] * 20, [0.002] if name != "absent" else []) for name in reporting_emit.HUBS}
DRAINED = {LOOPBACK: Drained([9000.0], [450.0]), FAR: Drained([5400.0], [18.0])}
LOADS = {name: Load([0.0001], [0.002], {1_000_000: [0.0002], 10_000_000: [0.0003]}) for name in (SQLITE, POSTGRES)}
EFFORT = reporting_nvflare.Effort()
TOOK = Took(run_s=20.0, handlers_s=0.2, end_s=5.0)
RUNS = {OFF: [TOOK], RIVAL: [replace(TOOK, handlers_s=5.0)], **{how: [TOOK] for how in EFFORT.ways}}
NAMES = [
    *(
        f"cost on the engine's thread per metric, hub {hub}: {how}"
        for hub in ("at 0", "at 50 ms", "hung", "absent")
        for how in ("single, p99", "in a batch of 100")
    ),
    "cost on the engine's thread per metric: the dearest of the four hubs beside the cheapest, single, median",
    "cost on the engine's thread per metric: the dearest of the four hubs beside the cheapest, "
    "in a batch of 100, median",
    "drained per second to the hub on loopback, stored rows counted",
    "drained per second to the hub at 50 ms of latency, stored rows counted",
    "added to the end of the run with 10,000 events queued and the hub hung",
    *(
        f"5-round NVFLARE job with 200 metrics a round and site, hub {hub}: {what}"
        for hub in ("healthy", "500 ms slow", "hung", "absent")
        for what in (
            "time inside our handlers",
            "the run beside one with reporting switched off",
            "the handler of its end",
        )
    ),
    "hub: events stored per second, SQLite, 8 concurrent senders",
    "hub: cost per event at 10,000,000 rows beside that at 1,000,000, SQLite",
    "hub: events stored per second, PostgreSQL, 8 concurrent senders",
    "hub: cost per event at 10,000,000 rows beside that at 1,000,000, PostgreSQL",
]


def _all() -> list[Figure]:
    return [
        *reporting_emit.figures(COSTS),
        *reporting_drain.figures(DRAINED),
        *reporting_close.figures([4.9]),
        *reporting_nvflare.figures(RUNS, EFFORT),
        *hub_load.figures(LOADS),
    ]


def test_each_figure_of_reporting_lands_in_the_file_under_its_name(tmp_path: Path) -> None:
    """Who compares two releases reads the file: a name that changes, or a figure that is left out, breaks the row."""
    path = tmp_path / "build" / "bench.json"
    write(_all(), path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == NAMES
    assert all(row["met"] for row in rows)
    assert all(isinstance(row["value"], float) and row["unit"] and row["goal"] for row in rows)


def test_the_goals_of_reporting_count_as_met_up_to_their_limits_and_not_beyond() -> None:
    """The table says "met" itself, so that nobody has to trust a reading of the numbers."""

    def emit(single_s: float, batched_s: float) -> list[bool]:
        costs = {**COSTS, "hung": Cost([single_s] * 200, [batched_s] * 20, [30.0])}
        return [figure.met for figure in reporting_emit.figures(costs)][4:6]

    def run(**changed: float) -> list[bool]:
        hung = EFFORT.ways[2]
        found = reporting_nvflare.figures({**RUNS, hung: [replace(TOOK, **changed)]}, EFFORT)
        return [figure.met for figure in found][6:9]

    def growth(after_s: float) -> bool:
        return hub_load.figures({SQLITE: replace(LOADS[SQLITE], filled_s={1: [0.0002], 10: [after_s]})})[1].met

    assert [emit(0.010, 0.0002), emit(0.0101, 0.0002), emit(0.010, 0.00021)] == [
        [True, True],
        [False, True],
        [True, False],
    ]
    slower = {LOOPBACK: Drained([8999.0], [450.0]), FAR: Drained([5399.0], [18.0])}
    assert [figure.met for figure in reporting_drain.figures(slower)] == [False, False]
    assert [figure.met for each in (5.0, 5.1) for figure in reporting_close.figures([1.0, each])] == [True, False]
    assert run() == [True, True, True]
    assert run(run_s=22.0, handlers_s=0.22) == [True, True, True]
    assert run(run_s=22.1, handlers_s=0.23, end_s=5.1) == [False, False, False]
    assert [growth(0.0003), growth(0.00031)] == [True, False]


def test_the_99th_percentile_is_what_99_of_a_hundred_do_not_exceed() -> None:
    """A percentile that is off by one hides the slowest reports, or shows a single hiccup of the machine."""
    assert reporting_hubs.p99([float(n) for n in range(1, 101)]) == 99.0
    assert reporting_hubs.p99([float(n) for n in range(1000, 0, -1)]) == 990.0
    assert reporting_hubs.p99([30.0]) == 30.0


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_reports_are_counted_at_the_hub_or_on_the_disk_while_they_are_measured() -> None:
    """The measurements assert where each report is: a side that loses some would else be the fast one."""
    costs = reporting_emit.measure_costs(
        reporting_emit.Effort(repeats=1, singles=20, posts={"at 0": 2, "at 50 ms": 2}, posts_hung=0)
    )
    assert {name: len(cost.single_s) for name, cost in costs.items()} == dict.fromkeys(reporting_emit.HUBS, 20)
    # Not a time of ours: an answer that takes 50 ms.
    assert min(costs["at 50 ms"].rival_s) > 0.05
    assert costs["absent"].rival_s == []

    posts = {LOOPBACK: 2, FAR: 2}
    drained = reporting_drain.measure_drain(reporting_drain.Effort(repeats=1, events=600, posts=posts))
    assert drained[FAR].rival[0] < 1 / 0.05
    assert all(each.ours[0] > each.rival[0] for each in drained.values())

    assert len(reporting_close.measure_ends(reporting_close.Effort(queued=30, waits_s=(0.0,)))) == 1


@pytest.mark.soak
@pytest.mark.timeout(180)
@pytest.mark.parametrize("database", [SQLITE, POSTGRES])
def test_the_load_fills_and_measures_three_hubs(
    database: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that are made the quick way must be such as the hub makes, or the large database is none."""
    monkeypatch.setattr(hub_load, "SENDERS", 2)
    if database == POSTGRES:
        request.getfixturevalue("postgres")  # says so where none can be started here
    load = hub_load.measure_load(database, hub_load.Effort(rows=(600, 1200), repeats=1, batches=1, posts=1))
    assert [len(each) for each in (load.empty_s, load.rival_s, *load.filled_s.values())] == [1, 1, 1, 1]
    assert sorted(load.filled_s) == [600, 1200]
    assert load.empty_s[0] < load.rival_s[0]


@pytest.mark.soak
@pytest.mark.timeout(280)
def test_a_job_is_measured_with_a_hung_hub() -> None:
    """The measurement asserts that every metric is at the hub in the end, and that the handlers were really timed."""
    took = reporting_nvflare.run_job(EFFORT.ways[2], replace(EFFORT, rounds=1, metrics=3))
    assert 0 < took.handlers_s < took.run_s
    assert took.end_s < took.run_s
