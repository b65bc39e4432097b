"""Flower's own ways of running a job, on one machine: on Ray, and as a deployment with a SuperNode for each site."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from flip_fl.results.verify import read_evaluation
from flip_fl.simulate.flower_link import Home
from flip_fl.simulate.model import Progress, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.bundles import bundle_of
from tests.support.evaluations import write_evaluation
from tests.support.small_apps import write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SLOTS = ("Trust_2", "Trust_3")


def launch(app: Path, out: Path, runtime: str, seen: list[str] | None = None) -> RunOutcome:
    """One round of ``app`` at two of three slots; ``seen`` gets the command lines of what runs in the round."""

    def look(progress: Progress) -> None:
        if progress.round == 1 and seen is not None and not seen:
            seen.extend(" ".join(each.cmdline()) for each in _processes(out))

    return run(RunOptions(app=app, engine="flower", runtime=runtime, sites=3, slots=SLOTS, out=out), look)


def scores(outcome: RunOutcome) -> dict[tuple[str, str], float]:
    """The last value of each label at each slot, as the hub has it."""
    return {
        (plot.label, series.slot): value
        for plot in outcome.story.plots
        for series in plot.series
        if (value := series.points[-1].y) is not None
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RunOutcome]:
    """A small app, and its run in-process."""
    folder = tmp_path_factory.mktemp("local")
    app = write_app(folder / "app", GLOBAL_ROUNDS=1)
    return app, launch(app, folder / "run", "in-process")


@pytest.mark.xdist_group("simulate_flower")
@pytest.mark.soak
@pytest.mark.parametrize("runtime", ["ray", "deployment"])
def test_the_same_app_gives_the_same_scores_and_leaves_nothing(
    runtime: str, local: tuple[Path, RunOutcome], tmp_path: Path
) -> None:
    """A job that runs in-process runs as Flower itself runs it: same slots, same scores, every daemon ended."""
    app, in_process = local
    seen: list[str] = []
    outcome = launch(app, tmp_path / "run", runtime, seen)
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    assert outcome.story.model.facts["Engine"] == f"flower ({runtime})"
    assert [(cell.slot, cell.state) for cell in outcome.story.rounds[0].cells] == [(slot, "returned") for slot in SLOTS]
    assert any("flower-superlink" in line for line in seen)
    assert _processes(tmp_path / "run") == []
    assert scores(outcome) == pytest.approx(scores(in_process), abs=1e-6)
    logs = tmp_path / "run" / "logs"
    assert (logs / "server.log").stat().st_size
    if runtime == "ray":
        return
    assert all(any("flower-supernode" in line and slot in line for line in seen) for slot in SLOTS)
    assert all((logs / f"{slot}.log").stat().st_size for slot in SLOTS)
    secrets = [*(tmp_path / "run" / "state" / "engine").glob("keys/*"), *tmp_path.glob("run/state/engine/tls/*")]
    assert len(secrets) == 7
    assert {path.stat().st_mode & 0o777 for path in secrets} == {0o600}


@pytest.mark.soak
@pytest.mark.xdist_group("simulate_flower")
def test_an_evaluation_runs_on_real_nodes(tmp_path: Path) -> None:
    """On a SuperLink as in-process: each model at each site, and a model that is missing is a failure beside it."""
    models = {"base": {"checkpoint": "linear.pt"}, "lost": {"checkpoint": "lost.pt"}}
    app = write_evaluation(tmp_path / "app", models)
    outcome = launch(app, tmp_path / "run", "deployment")
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    found = read_evaluation(bundle_of(outcome))
    assert {slot: list(models) for slot, models in found.items()} == {slot: ["SRV_base"] for slot in SLOTS}
    assert [row.text[:31] for row in outcome.story.feed if "evaluations failed" in row.text] == [
        "2 of 4 evaluations failed: lost"
    ]


@pytest.mark.soak
def test_a_supernode_that_is_killed_ends_a_deployment_with_its_name(tmp_path: Path) -> None:
    """Flower takes a minute to notice, and waits for ever for a node that never came: the run ends at once instead."""
    app = write_app(tmp_path / "app", in_train="import time; time.sleep(60)", GLOBAL_ROUNDS=1)
    killed: list[int] = []

    def kill_one(progress: Progress) -> None:
        if progress.round == 1 and not killed:
            for each in _processes(tmp_path / "run"):
                line = each.cmdline()
                if any("flower-supernode" in word for word in line) and any("Trust_2" in word for word in line):
                    killed.append(each.pid)
                    each.kill()

    options = RunOptions(app=app, engine="flower", runtime="deployment", sites=2, out=tmp_path / "run")
    outcome = run(options, kill_one)
    assert killed
    assert outcome.status is ModelStatus.ERROR
    assert outcome.story.reason == "the process of Trust_2 was lost"
    assert _processes(tmp_path / "run") == []


def _processes(out: Path) -> list[psutil.Process]:
    return Home(out / "state" / "engine" / "home", {}).processes()
