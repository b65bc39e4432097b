"""Existing Flower packages, none of which knows flip_fl, as they are: the whole run, with a real hub."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from flip_fl.results.verify import read_evaluation
from flip_fl.simulate.model import RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.bundles import bundle_of, weights_of
from tests.support.flower_packages import (
    write_evaluation_package,
    write_package,
    write_quickstart,
    write_staged_package,
)
from tests.support.runs import at_this_load, raises_marked, until_the_hub_knew

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

SLOTS = ("Trust_1", "Trust_2")


def launch(app: Path, out: Path, runtime: str = "in-process", data: Path | None = None) -> RunOutcome:
    """The app at two sites."""
    return run(RunOptions(app=app, engine="flower", runtime=runtime, sites=2, out=out, data=data), lambda _: None)


def points(outcome: RunOutcome, label: str) -> dict[str, list[tuple[float, int, str]]]:
    """What the hub has under ``label``: slot → (x, round, axis) of each point."""
    return {
        series.slot: [(point.x, point.round, plot.x_label) for point in series.points]
        for plot in outcome.story.plots
        if plot.label == label
        for series in plot.series
    }


def values(outcome: RunOutcome, label: str) -> dict[str, list[float]]:
    return {s.slot: [p.y for p in s.points] for plot in outcome.story.plots if plot.label == label for s in plot.series}


@pytest.fixture(scope="module")
def housed(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    """A package without a ServerApp of its own: as the platform takes it in."""
    folder = tmp_path_factory.mktemp("housed")
    app = write_package(folder / "mine")
    return launch(app, folder / "run", data=app / "cohort.csv")


@pytest.mark.xdist_group("flower_packages")
def test_a_package_of_flips_form_runs_as_it_is(housed: RunOutcome) -> None:
    """Statuses, rounds, metrics with their axes and a model that loads: all that a neutral app has."""
    assert housed.status is ModelStatus.RESULTS_UPLOADED, housed.reason
    assert [[(cell.slot, cell.state) for cell in each.cells] for each in housed.story.rounds] == [
        [(slot, "returned") for slot in SLOTS]
    ] * 2
    epochs = [(float(2 * (number - 1) + epoch), number, "epoch") for number in (1, 2) for epoch in (1, 2)]
    assert points(housed, "epoch_loss") == dict.fromkeys(SLOTS, epochs)
    rounds = [(1.0, 1, "Global Rounds"), (2.0, 2, "Global Rounds")]
    assert points(housed, "loss") == points(housed, "train_loss") == dict.fromkeys(SLOTS, rounds)
    assert not [plot.label for plot in housed.story.plots if plot.label.startswith("num")]
    # Each site has taken its own share of the file that both were given.
    first, second = values(housed, "loss").values()
    assert first != second
    assert set(weights_of(bundle_of(housed))) == {"weight", "bias"}


@pytest.mark.xdist_group("flower_packages")
def test_the_run_config_is_the_apps_own_and_the_new_imports_are_said(housed: RunOutcome) -> None:
    """What pyproject.toml declares reaches the ClientApp, config.json goes first, and old names are told once."""
    project = (housed.folder / "state" / "job" / "pyproject.toml").read_text()
    for line in ("learning-rate = 0.5", "local-epochs = 2", 'mine = "kept"', "dp-enabled = true"):
        assert f"\n{line}\n" in project
    log = (housed.folder / "logs" / "Trust_1.log").read_text()
    assert log.count("write: from flip_fl import FLIP") == 1


@pytest.mark.xdist_group("flower_packages")
def test_its_own_server_app_and_strategy_tell_the_same_story(housed: RunOutcome, tmp_path: Path) -> None:
    """An unmodified ServerApp gets our grid: same numbers, same rows, one status each, one bundle with the model."""
    app = write_package(tmp_path / "mine", server=True)
    own = launch(app, tmp_path / "run", data=app / "cohort.csv")
    assert own.status is ModelStatus.RESULTS_UPLOADED, own.reason
    for label in ("loss", "train_loss", "epoch_loss"):
        assert values(own, label) == {
            slot: pytest.approx(each, rel=1e-6) for slot, each in values(housed, label).items()
        }

    def told(outcome: RunOutcome) -> list[str]:
        return sorted(row.text for row in outcome.story.feed if not row.text.startswith(("Round", "Results stored")))

    assert told(own) == told(housed)


REACHING = """
import json, os, socket

def reach(of):
    try:
        return bool(of())
    except OSError:
        return False

tried = {{
    "settings": reach(lambda: open({settings!r}).read()),
    "environment": reach(lambda: open(f"/proc/{{os.getppid()}}/environ", "rb").read()),
    "network": reach(lambda: socket.create_server(("127.0.0.1", 0))),
}}
print("tried", json.dumps(tried), flush=True)
"""


@pytest.mark.slow
@pytest.mark.xdist_group("flower_packages")
@pytest.mark.parametrize("production", [True, False])
def test_a_server_app_reaches_nothing_of_its_server_in_production(production: bool, tmp_path: Path) -> None:
    """A researcher's ServerApp runs beside the hub's and the store's keys; on a developer's machine it has them."""
    out = tmp_path / "run"
    reaching = REACHING.format(settings=str(out / "state" / "settings" / "server.env"))
    app = write_package(tmp_path / "mine", server=True, server_imports=reaching)
    outcome = run(
        RunOptions(app=app, engine="flower", sites=2, out=out, data=app / "cohort.csv", production=production),
        lambda _: None,
    )
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    (tried,) = re.findall(r"tried (\{.*\})", (out / "logs" / "server.log").read_text())
    assert set(json.loads(tried).values()) == {not production}


IMPORT = ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'")
RAISE = ("raise ArithmeticError('no such mean')", "ArithmeticError: no such mean")


@pytest.mark.xdist_group("flower_packages")
@pytest.mark.parametrize(
    ("place", "fails"),
    [
        ("imports", IMPORT),
        ("server_imports", IMPORT),
        ("in_train", RAISE),
        pytest.param("in_evaluate", RAISE, marks=pytest.mark.soak),
        pytest.param("in_main", RAISE, marks=pytest.mark.soak),
    ],
)
def test_what_fails_is_at_the_hub_within_seconds(place: str, fails: tuple[str, str], tmp_path: Path) -> None:
    """A bad import or a raise, at a site or in the ServerApp: within 3 s its traceback is at the hub, as the reason."""
    statement, words = fails
    mark = tmp_path / "raised"
    server = place in ("server_imports", "in_main")
    app = write_package(tmp_path / "mine", server=server, **{place: raises_marked(mark, statement)})
    outcome = launch(app, tmp_path / "run", data=app / "cohort.csv")
    assert outcome.status is ModelStatus.ERROR
    assert words.partition(":")[0] in str(outcome.story.reason)
    rows = [row for row in outcome.story.feed if "Traceback" in row.text]
    assert rows
    file = "server_app.py" if server else "client_app.py"
    assert all(words in row.text and file in row.text for row in rows)
    assert until_the_hub_knew(outcome.folder, words, mark) < at_this_load(3.0)


@pytest.mark.xdist_group("flower_packages")
@pytest.mark.parametrize("job_type", ["diffusion_model", pytest.param("fed_opt", marks=pytest.mark.soak)])
def test_packages_of_the_other_types_run_as_they_are(job_type: str, tmp_path: Path) -> None:
    """Two stages, and an optimizer on the server: the ClientApp does its work, the house's server the rest."""
    if job_type == "diffusion_model":
        app, labels = write_staged_package(tmp_path / "mine"), {"ae/loss": [1], "dm/loss": [2, 3]}
    else:
        app = write_package(tmp_path / "mine", job_type=job_type, SERVER_OPTIMIZER="adam")
        labels = {"loss": [1, 2]}
    outcome = launch(app, tmp_path / "run", data=app / "cohort.csv")
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    for label, rounds in labels.items():
        found = points(outcome, label)
        assert {slot: [number for _, number, _ in each] for slot, each in found.items()} == dict.fromkeys(SLOTS, rounds)
    assert weights_of(bundle_of(outcome))


@pytest.mark.xdist_group("flower_packages")
def test_an_evaluation_package_is_evaluated_model_by_model(tmp_path: Path) -> None:
    """``get_model_for_path`` builds each model; one that is missing is a failure beside the others."""
    app = write_evaluation_package(tmp_path / "mine")
    outcome = launch(app, tmp_path / "run", data=app / "cohort.csv")
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    found = read_evaluation(bundle_of(outcome))
    assert {slot: list(models) for slot, models in found.items()} == {slot: ["SRV_base"] for slot in SLOTS}
    assert {slot: models["SRV_base"]["accuracy"] for slot, models in found.items()} == dict.fromkeys(SLOTS, 1.0)
    assert any("server_app.py is not used" in row.text for row in outcome.story.feed)


@pytest.mark.xdist_group("flower_packages")
@pytest.mark.parametrize("runtime", ["in-process", pytest.param("ray", marks=pytest.mark.soak)])
def test_flowers_hello_world_runs_with_model_and_data_exchanged(runtime: str, tmp_path: Path) -> None:
    """What ``flwr new`` makes for PyTorch, with config.json and models.py, is a run of FLIP (ray: by ``flwr run``).

    It also scores each global model on the server (``evaluate_fn``), which is its own affair and in its log.
    """
    app = write_quickstart(tmp_path / "quickstart")
    outcome = launch(app, tmp_path / "run", runtime)
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    assert set(points(outcome, "eval_acc")) == set(points(outcome, "train_loss")) == set(SLOTS)
    assert [len(each) for each in points(outcome, "eval_loss").values()] == [2, 2]
    assert set(weights_of(bundle_of(outcome))) == {"fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"}
    manifest = json.loads((outcome.folder / "story.json").read_text())
    assert manifest["model"]["facts"]["Engine"] == f"flower ({runtime})"
    assert not list(tmp_path.rglob("final_model.pt"))  # in the run's scratch, which is gone
    if runtime == "in-process":
        log = "".join(path.read_text() for path in (outcome.folder / "logs").glob("*.log"))
        assert "central_accuracy" in log
    assert not points(outcome, "central_accuracy")


@pytest.mark.soak
def test_a_package_runs_on_real_nodes(housed: RunOutcome, tmp_path: Path) -> None:
    """On a SuperLink with authenticated nodes its own ServerApp gives the scores that it gives in-process."""
    app = write_package(tmp_path / "mine", server=True)
    outcome = launch(app, tmp_path / "run", "deployment", app / "cohort.csv")
    assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
    assert values(outcome, "loss") == {slot: pytest.approx(v, rel=1e-6) for slot, v in values(housed, "loss").items()}
