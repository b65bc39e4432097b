"""The benchmarks: what they are called, when a goal counts as met, and that small ones really measure."""

from __future__ import annotations

import importlib
import json
import pkgutil
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from flip_fl.flower.local_grid import LocalGrid
from flip_fl.flower.local_site import DirectSite
from tests import benchmarks
from tests.benchmarks import flower_engines, flower_large_model, flower_wrapping, start_up
from tests.benchmarks.__main__ import SECTIONS
from tests.benchmarks.figures import Figure, table, write
from tests.benchmarks.flower_engines import IN_PROCESS, NVFLARE, RAY
from tests.benchmarks.flower_large_model import DEFAULT, OURS, Cost
from tests.benchmarks.flower_wrapping import Added, Effort, Pace

SECONDS = {IN_PROCESS: 10.0, NVFLARE: 15.0, RAY: 50.0}
COSTS = {OURS: Cost((30.0, 22.0, 9.0), 1100.0), DEFAULT: Cost((1.0, 20.0, 90.0), 1000.0)}
ADDED = [
    Added(clients, hub, bare_s=0.1, added_s=0.01, rival_s=2.2 if hub == "at 50 ms" else None, at_work=False)
    for clients in flower_wrapping.CLIENTS
    for hub in flower_wrapping.HUBS
]
AT_WORK = Added(2, "at 50 ms", bare_s=5.0, added_s=0.01, rival_s=2.2)
NAMES = [
    "the standard example, 2 sites × 5 rounds: in-process grid beside Flower with Ray",
    "the standard example, 2 sites × 5 rounds: in-process grid beside NVFLARE simulator",
    *(
        f"what our wrapping adds to a round with {clients} clients, 10 metrics each, hub {hub}"
        for clients in (2, 8, 32, 100)
        for hub in ("at 50 ms", "hung")
    ),
    "100 MB model, 2 clients, deployment: seconds a round",
    "100 MB model, 2 clients, deployment: peak memory of the ServerApp",
]


def _all() -> list[Figure]:
    engines, large = flower_engines.figures(SECONDS), flower_large_model.figures(COSTS)
    return [*engines, *flower_wrapping.figures(ADDED), *large]


def test_each_figure_lands_in_the_file_with_its_rival_and_its_goal(tmp_path: Path) -> None:
    """Who compares two releases reads the file: a name that changes, or a figure that is left out, breaks the row."""
    path = tmp_path / "build" / "bench.json"
    write(_all(), path)
    rows = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in rows] == NAMES
    assert all(row.keys() == {"name", "value", "unit", "rival", "goal", "met"} for row in rows)
    assert all(isinstance(row["value"], float) and row["unit"] and row["goal"] for row in rows)
    assert [row["name"] for row in rows if row["rival"] is None] == [name for name in NAMES if name.endswith("hung")]
    assert AT_WORK.name == f"{NAMES[2]}; clients at work for 2 s and more"
    assert [line.partition("  ")[0] for line in table(_all()).splitlines()[1:]] == NAMES


def test_a_goal_counts_as_met_up_to_its_limit_and_not_beyond() -> None:
    """The table says "met" itself, so that nobody has to trust a reading of the numbers."""

    def engines(ray_s: float) -> bool:
        return flower_engines.figures({**SECONDS, RAY: ray_s})[0].met

    def added(added_s: float, bare_s: float) -> bool:
        return flower_wrapping.figures([replace(ADDED[0], added_s=added_s, bare_s=bare_s)])[0].met

    def large(ours: Cost) -> list[bool]:
        return [figure.met for figure in flower_large_model.figures({**COSTS, OURS: ours})]

    assert [engines(50.0), engines(49.9)] == [True, False]
    assert [added(0.020, 0.1), added(0.021, 0.1), added(0.03, 3.0), added(0.031, 3.0)] == [True, False, True, False]
    assert large(COSTS[OURS]) == [True, True]
    assert large(Cost((22.1, 22.1, 0.0), 1101.0)) == [False, False]


def test_the_benchmarks_are_all_run() -> None:
    """A module that nobody calls measures nothing."""
    modules = [
        importlib.import_module(f"tests.benchmarks.{each.name}") for each in pkgutil.iter_modules(benchmarks.__path__)
    ]
    assert {each.measure for each in modules if hasattr(each, "measure")} == set(SECTIONS.values())


def test_what_an_import_loads_is_seen() -> None:
    """The goal of a light import would else be met by a look that sees nothing."""
    assert start_up.loaded_by("import flip_fl") & start_up.HEAVY == set()
    assert start_up.loaded_by("import sys; sys.modules['torch'] = sys") & start_up.HEAVY == {"torch"}


@pytest.mark.soak
@pytest.mark.timeout(120)
def test_a_round_is_measured_bare_wrapped_and_with_a_post_for_every_metric() -> None:
    """The measurement itself asserts that the hub gets every report and every post: a broken side is no fast side."""
    pace = Pace(0.2, 0.3)
    found = flower_wrapping.measure_added(Effort(clients=(1,), block_s=0.01, pairs=1, paced_pairs=1, pace=pace))
    at_work, at_once, hung, _ = found
    assert [(each.hub, each.at_work) for each in found] == [
        ("at 50 ms", True),
        ("at 50 ms", False),
        ("hung", True),
        ("hung", False),
    ]
    # Not a time of ours: 20 answers that each take 50 ms.
    assert at_work.rival_s is not None
    assert at_work.rival_s > 20 * 0.05
    assert hung.rival_s is None
    # A site at work takes its time in both phases.
    assert at_work.bare_s > 2 * pace.most_s > at_once.bare_s


@pytest.mark.parametrize("grid", [DEFAULT, OURS])
def test_the_large_models_app_tells_what_each_round_and_its_process_took(grid: str, tmp_path: Path) -> None:
    """The app runs as it is on a grid of this process: what it writes down is what the figures are made of."""
    told = tmp_path / "told.json"
    config = {"megabytes": 1, "rounds": 2, "clients": 2, "grid": grid, "told": str(told)}
    client = _module(flower_large_model.CLIENT_APP)
    sites = [DirectSite(f"Trust_{number}", client.app, run_config=config) for number in (1, 2)]
    local = LocalGrid(sites)
    context = Context(local.run.run_id, 1, {}, RecordDict(), config)
    _module(flower_large_model.SERVER_APP).main(local, context)
    cost = Cost.read(told)
    assert len(cost.seconds) == 2
    assert min(cost.seconds) > 0
    assert cost.peak_mb > 10
    assert Cost.of([cost, replace(cost, peak_mb=1.0)]) == Cost(cost.seconds * 2, cost.peak_mb)
    assert (tmp_path / "told.run" / "checkpoint.npz").is_file() == (grid == OURS)


def _module(source: str) -> Any:
    module = types.ModuleType("app_under_test")
    exec(compile(source, "<app>", "exec"), module.__dict__)
    return module
