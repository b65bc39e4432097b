"""Evaluations as whole runs on both engines: what is delivered, what the hub is told, and when there is no success."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flip_fl.errors import FlipError
from flip_fl.results.verify import verify
from flip_fl.simulate.model import ENGINES, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.bundles import bundle_of
from tests.support.evaluations import write_evaluation
from tests.support.runs import EITHER_ENGINE, OnEngines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(290), pytest.mark.xdist_group("evaluations")]

RESULTS, FAILURES = (f"evaluation_results/evaluation_{name}.json" for name in ("results", "failures"))
SLOTS = ("Trust_1", "Trust_2")
METRICS = ("accuracy", "draw")
# Of four models one is whole, one raises at a site, one does not fit its weights, and of one there are no weights.
MODELS = {
    "linear": {"checkpoint": "linear.pt"},
    "wide": {"checkpoint": "wide.pt", "path": "wide"},
    "unlike": {"checkpoint": "wide.pt"},
    "lost": {"checkpoint": "lost.pt"},
}
RAISES = """
    if site.model == "wide" and site.name == "Trust_2":
        raise ValueError("this site cannot")
"""


def launch(app: Path, engine: str, out: Path) -> RunOutcome:
    return run(RunOptions(app=app, engine=engine, sites=2, out=out), lambda _: None)


def file_of(outcome: RunOutcome, name: str) -> Any:
    with zipfile.ZipFile(bundle_of(outcome)) as bundle:
        return json.loads(bundle.read(name))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunOutcome]:
    """The evaluation of ``MODELS`` on each engine."""
    folder = tmp_path_factory.mktemp("evaluation")
    app = write_evaluation(folder / "app", MODELS, in_evaluate=RAISES)
    return OnEngines(lambda engine: launch(app, engine, folder / engine))


@pytest.fixture(params=EITHER_ENGINE)
def outcome(request: pytest.FixtureRequest, runs: dict[str, RunOutcome]) -> RunOutcome:
    return runs[request.param]


def test_a_partial_failure_gives_results_and_failures_by_client_and_model(outcome: RunOutcome) -> None:
    """What could be evaluated is delivered, and who failed at what is said once each; the run is a success."""
    assert (outcome.status, outcome.exit_code, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    results = file_of(outcome, RESULTS)
    assert {slot: list(models) for slot, models in results.items()} == {
        "Trust_1": ["SRV_linear", "SRV_wide"],
        "Trust_2": ["SRV_linear"],
    }
    assert file_of(outcome, FAILURES) == [
        {"model": "wide", "client": "Trust_2", "return_code": "EXECUTION_EXCEPTION"},
        *({"model": "unlike", "client": slot, "return_code": "MODEL_UNUSABLE"} for slot in SLOTS),
        *({"model": "lost", "client": slot, "return_code": "MODEL_NOT_FOUND"} for slot in SLOTS),
    ]


def test_supplementary_results_are_in_the_file_and_nothing_else_of_them_leaves(outcome: RunOutcome) -> None:
    """Lists and curves of finite numbers are delivered; one with NaN, or under an odd name, is refused and told."""
    values = file_of(outcome, RESULTS)["Trust_1"]["SRV_linear"]
    assert set(values) == {"num_examples", *METRICS, "confusion", "roc"}
    assert values["num_examples"] == 120
    assert values["confusion"] == [[1, 2], [3, 4]]
    assert values["roc"] == {"fpr": [0.0, 0.25, 0.5, 0.75, 1.0], "tpr": [0.0, 0.5, 1.0]}
    feed = [(row.slot, row.text) for row in outcome.story.feed if "round 1" in row.text]
    for slot in SLOTS:
        told_of = [text for each, text in feed if each == slot]
        assert "'holes' of round 1 (evaluate, linear) has a value that is not finite: not stored" in told_of
        assert any("has a name that may not leave the trust" in text for text in told_of)
    assert not any("0001234567" in row.text for row in outcome.story.feed)
    assert not any(label in plot.label for plot in outcome.story.plots for label in ("roc", "confusion", "holes"))


def test_each_metric_is_at_the_hub_once(outcome: RunOutcome) -> None:
    """One value for each site, model and metric, in the model's round, and the same as in the file."""
    points = Counter(
        (series.slot, plot.label) for plot in outcome.story.plots for series in plot.series for _ in series.points
    )
    results = file_of(outcome, RESULTS)
    wanted = {
        (slot, f"{model.removeprefix('SRV_')}/{name}"): values[name]
        for slot, models in results.items()
        for model, values in models.items()
        for name in METRICS
    }
    assert points == Counter(wanted.keys())
    for plot in outcome.story.plots:
        number = list(MODELS).index(plot.label.partition("/")[0]) + 1
        for series in plot.series:
            (point,) = series.points
            assert (point.round, point.y) == (number, pytest.approx(wanted[series.slot, plot.label], abs=1e-6))


def test_a_round_is_a_model_and_the_story_says_what_failed(outcome: RunOutcome) -> None:
    """The rounds are the models in the order of config.json; what failed is a failure, and summed up at the end."""
    story = outcome.story
    assert story.evaluates
    assert [(each.number, each.stage, each.returned, each.expected) for each in story.rounds] == [
        (1, "linear", 2, 2),
        (2, "wide", 1, 2),
        (3, "unlike", 0, 0),
        (4, "lost", 0, 0),
    ]
    assert [[cell.state for cell in each.cells] for each in story.rounds] == [
        ["returned", "returned"],
        ["returned", "failed"],
        ["not_asked", "not_asked"],
        ["not_asked", "not_asked"],
    ]
    failures = {failure.round: (failure.headline, failure.slots) for failure in story.failures}
    assert failures[2] == ("ValueError: this site cannot", ["Trust_2"])
    assert failures[3][0].startswith("model 'unlike' (wide.pt) is not evaluated: wide.pt: ")
    assert failures[4][0].startswith("model 'lost' (lost.pt) is not evaluated: there is no checkpoint lost.pt")
    (summary,) = [row for row in story.feed if "of 8 evaluations failed" in row.text]
    assert not summary.success
    assert summary.text.startswith("5 of 8 evaluations failed: wide at Trust_2: ValueError: this site cannot; unlike ")
    applied = [each.status.value for each in story.history if each.applied]
    assert applied == ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]


def test_checkpoints_stay_on_the_server(outcome: RunOutcome) -> None:
    """No site's folder, job or bundle has a file of weights; the bundle is sound without a model."""
    with zipfile.ZipFile(bundle_of(outcome)) as bundle:
        assert set(bundle.namelist()) == {
            RESULTS, FAILURES, "config.json", "models.py", "evaluator.py", "prepare.py", "manifest.json",
        }  # fmt: skip
    assert verify(bundle_of(outcome)).models == ()
    kept = {path.parent.parent.name for path in outcome.folder.rglob("*.pt")}
    assert kept == {"checkpoints"}
    assert not list(outcome.folder.rglob("*.npz"))


@pytest.mark.soak
def test_the_engines_deliver_the_same_files(runs: dict[str, RunOutcome]) -> None:
    """Same app, seed and data: the same results, what was drawn by chance included, and the same failures."""
    for name in (RESULTS, FAILURES):
        one, other = (file_of(each, name) for each in (runs[engine] for engine in ENGINES))
        assert one == other


@pytest.mark.parametrize("engine", [pytest.param("nvflare", marks=pytest.mark.soak), "flower"])
def test_an_evaluation_of_which_nothing_came_is_an_error_with_its_reasons(engine: str, tmp_path: Path) -> None:
    """A missing checkpoint, and a model that fails at every site, are no success with an empty file."""
    models = {"lost": {"checkpoint": "lost.pt"}, "linear": {"checkpoint": "linear.pt"}}
    app = write_evaluation(tmp_path / "app", models, in_evaluate="\n    raise KeyError(0)\n")
    outcome = launch(app, engine, tmp_path / "run")
    assert (outcome.status, outcome.results, outcome.exit_code) == (ModelStatus.ERROR, None, 1)
    reason = outcome.story.reason or ""
    assert reason.startswith("no model was evaluated at any site: lost at Trust_1 and Trust_2: there is no checkpoint")
    assert "linear at Trust_1 and Trust_2: KeyError" in reason
    assert not list((outcome.folder / "results").glob("*.zip"))


@pytest.mark.parametrize(
    ("models", "words"),
    [(None, "models is null"), ({}, "models is {}"),
     ({"a": {"checkpoint": "../a.pt"}}, 'models.a.checkpoint is "../a.pt"; it must be a plain file name'),
     ({"a": {"checkpoint": "sub/a.pt"}}, "models.a.checkpoint"), ({"a/b": {"checkpoint": "a.pt"}}, "models.a/b"),
     ({"a": {}}, "models.a")],
)  # fmt: skip
def test_what_names_no_checkpoint_is_refused_before_anything_starts(
    models: dict[str, Any] | None, words: str, tmp_path: Path
) -> None:
    """Nothing to evaluate, a name that leads elsewhere, or none: the config is refused by key, no file is read."""
    app = write_evaluation(tmp_path / "app", models)
    with pytest.raises(FlipError) as refused:
        launch(app, "flower", tmp_path / "run")
    assert refused.value.code == "E0303"
    assert refused.value.what.startswith(words)
    assert not (tmp_path / "run").exists()
