"""NVFLARE Client-API scripts, none of which knows flip_fl, in whole runs: what hub, bundle and logs hold."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from flip_fl.dashboard.story import Story
from flip_fl.errors import FlipError
from flip_fl.results.verify import verify
from flip_fl.simulate.model import RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from tests.support.bundles import bundle_of, weights_of
from tests.support.runs import at_this_load, processes_of, raises_marked, until_the_hub_knew
from tests.support.scripts import write_evaluator_script, write_hello_world, write_script_app, write_staged_script

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.xdist_group("scripts")]

SLOTS = ("Trust_1", "Trust_2")
APPLIED = ["PENDING", "INITIATED", "PREPARED", "RUNNING", "RESULTS_UPLOADED"]
CANARY = "CANARY7Q"


def launch(app: Path, out: Path, **options: Any) -> RunOutcome:
    return run(RunOptions(app=app, engine="nvflare", sites=2, out=out, **options), lambda _: None)


def statuses(story: Story) -> list[str]:
    return [each.status.value for each in story.history if each.applied]


def points(story: Story, label: str, x_label: str = DEFAULT_X_LABEL) -> dict[str, list[tuple[int | None, float]]]:
    """The points of a plot by slot, as (round, x)."""
    (plot,) = [each for each in story.plots if (each.label, each.x_label) == (label, x_label)]
    return {series.slot: [(point.round, point.x) for point in series.points] for series in plot.series}


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    """Two rounds of the standard script, with a cohort full of canaries."""
    folder = tmp_path_factory.mktemp("standard")
    return launch(write_script_app(folder / "app", LOCAL_ROUNDS=2, canary=CANARY), folder / "run")


def test_a_script_is_trained_validated_and_stored(standard: RunOutcome) -> None:
    """It ends as every run: statuses in order, two results a round, a bundle whose model loads."""
    assert (standard.status, standard.exit_code, standard.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    assert statuses(standard.story) == APPLIED
    assert [(each.returned, each.expected) for each in standard.story.rounds] == [(2, 2), (2, 2)]
    assert verify(bundle_of(standard)).models == ("FL_global_model.pt",)
    with zipfile.ZipFile(bundle_of(standard)) as bundle:
        assert {"trainer.py", "models.py", "config.json"} <= {Path(name).name for name in bundle.namelist()}


def test_numbers_of_a_script_arrive_as_those_of_neutral_apps(standard: RunOutcome) -> None:
    """Tags with and without an axis, and what was returned, each under its label, round and place."""
    each = dict.fromkeys(SLOTS)
    assert points(standard.story, "val_loss") == {slot: [(1, 1.0), (2, 2.0)] for slot in each}
    assert points(standard.story, "TRAIN_LOSS") == {slot: [(1, 1.0), (2, 2.0)] for slot in each}
    epochs = [(1, 1.0), (1, 2.0), (2, 3.0), (2, 4.0)]
    assert points(standard.story, "Train loss (G)", "epoch") == dict.fromkeys(each, epochs)


def test_every_site_has_the_whole_cohort(standard: RunOutcome) -> None:
    """Existing apps take their own share of one file: the simulator divides it for neutral apps only."""
    cohorts = [pd.read_csv(path) for path in sorted(standard.folder.rglob("Trust_*/cohort.csv"))]
    assert len(cohorts) == 2
    pd.testing.assert_frame_equal(cohorts[0], cohorts[1])


def test_nothing_of_a_row_leaves_a_script(standard: RunOutcome) -> None:
    """It prints patients and logs through Python: neither logs nor the hub nor the bundle hold one."""
    files = [path for path in standard.folder.rglob("*") if path.is_file() and path.suffix not in (".csv", ".lock")]
    found = [path for path in files if CANARY.encode() in path.read_bytes()]
    assert [path for path in found if path.name != "prepare.py"] == []
    assert any("withheld" in row.text for row in standard.story.feed)
    with zipfile.ZipFile(bundle_of(standard)) as bundle:
        assert not any(CANARY.encode() in bundle.read(name) for name in bundle.namelist() if "prepare" not in name)


def test_no_script_outlives_its_run(standard: RunOutcome) -> None:
    """The scripts' processes are gone with the run."""
    assert processes_of(standard.folder) == []


def test_an_evaluator_scores_every_model_with_the_trust_s_own_services(tmp_path: Path) -> None:
    """Two models, one of which raises at a site, in production: no key at the script, and its ``FLIP()`` has the data.

    Results by client and model, curves in the file only, one failure with file and line.
    """
    models = {"linear": {"checkpoint": "linear.pt"}, "wide": {"checkpoint": "wide.pt", "path": "wide"}}
    raises = "import os; assert not [n for n in os.environ if 'KEY' in n]\n        "
    raises += "if name == 'wide' and flare.get_site_name() == 'Trust_2': raise ValueError('this site cannot')"
    app = write_evaluator_script(tmp_path / "app", models, in_evaluate=raises)
    outcome = launch(app, tmp_path / "run", production=True)
    assert (outcome.status, outcome.exit_code) == (ModelStatus.RESULTS_UPLOADED, 0)
    with zipfile.ZipFile(bundle_of(outcome)) as bundle:
        results, failures = (
            json.loads(bundle.read(f"evaluation_results/evaluation_{name}.json")) for name in ("results", "failures")
        )
    assert {slot: list(found) for slot, found in results.items()} == {
        "Trust_1": ["SRV_linear", "SRV_wide"],
        "Trust_2": ["SRV_linear"],
    }
    assert set(results["Trust_1"]["SRV_wide"]) == {"num_examples", "val_loss", "accuracy", "roc"}
    assert sum(found["SRV_linear"]["num_examples"] for found in results.values()) == 240
    assert failures == [{"model": "wide", "client": "Trust_2", "return_code": "EXECUTION_EXCEPTION"}]
    assert points(outcome.story, "linear/accuracy") == {slot: [(1, 1.0)] for slot in SLOTS}
    (failure,) = outcome.story.failures
    assert 'File "evaluator.py", line' in failure.detail
    assert "ValueError: this site cannot" in failure.detail


@pytest.mark.parametrize(
    "where", ["at_import", *(pytest.param(where, marks=pytest.mark.soak) for where in ("in_train", "in_validate"))]
)
def test_an_exception_is_at_the_hub_within_seconds(where: str, tmp_path: Path) -> None:
    """A raise at import, in training, in validation: file, line and text at the hub within 3 s; it is the reason."""
    mark = tmp_path / "raised"
    raises = raises_marked(mark, "raise ImportError('no such backend')")
    outcome = launch(write_script_app(tmp_path / "app", **{where: raises}), tmp_path / "run")
    assert outcome.status is ModelStatus.ERROR
    assert "ImportError: no such backend" in (outcome.reason or "")
    assert all('File "trainer.py", line' in failure.detail for failure in outcome.story.failures)
    assert outcome.story.failures
    assert until_the_hub_knew(outcome.folder, "ImportError: no such backend", mark) < at_this_load(3.0)


@pytest.mark.parametrize(("wanted", "sent"), [("DIFF", "FULL"), pytest.param("FULL", "DIFF", marks=pytest.mark.soak)])
def test_the_wrong_kind_of_params_is_one_report_that_says_what_to_change(
    wanted: str, sent: str, tmp_path: Path
) -> None:
    """Whole weights where differences are expected, and the reverse: the run ends with one failure of both sites."""
    send = f"flare.send(flare.FLModel(params=model.state_dict(), params_type='{sent}')); continue"
    outcome = launch(write_script_app(tmp_path / "app", in_train=send, PARAMS_TYPE=wanted), tmp_path / "run")
    assert outcome.status is ModelStatus.ERROR
    (failure,) = outcome.story.failures
    assert failure.slots == list(SLOTS)
    for said in (f'params_type="{wanted}"', f'set PARAMS_TYPE to "{sent}"'):
        assert said in failure.headline
        assert said in (outcome.reason or "")


@pytest.mark.soak
def test_nvflares_hello_world_without_tasks_runs_as_it_is(tmp_path: Path) -> None:
    """A client that asks for no task: it is only trained, its scores are the round's before, and choose the best."""
    outcome = launch(write_hello_world(tmp_path / "app", GLOBAL_ROUNDS=3), tmp_path / "run")
    assert (outcome.status, outcome.exit_code, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    assert points(outcome.story, "accuracy") == {slot: [(1, 1.0), (2, 2.0)] for slot in SLOTS}
    assert [(each.returned, each.expected) for each in outcome.story.rounds] == [(2, 2)] * 3
    assert verify(bundle_of(outcome)).models == ("FL_global_model.pt", "best_FL_global_model.pt")


def test_nvflares_hello_world_runs_as_it_is(tmp_path: Path) -> None:
    """With model and data exchanged alone it trains, scores each new model when it is asked to, and finds the best."""
    app = write_hello_world(tmp_path / "app", evaluates=True, GLOBAL_ROUNDS=2)
    outcome = launch(app, tmp_path / "run")
    assert (outcome.status, outcome.exit_code, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    for label in ("accuracy", "train_accuracy"):
        assert points(outcome.story, label) == {slot: [(1, 1.0), (2, 2.0)] for slot in SLOTS}
    assert verify(bundle_of(outcome)).models == ("FL_global_model.pt", "best_FL_global_model.pt")


def test_a_script_of_two_stages_hands_its_model_over(tmp_path: Path) -> None:
    """Each stage's tasks come under their own names; the second starts from what the first has trained."""
    outcome = launch(write_staged_script(tmp_path / "app"), tmp_path / "run")
    assert (outcome.status, outcome.exit_code, outcome.reason) == (ModelStatus.RESULTS_UPLOADED, 0, None)
    assert points(outcome.story, "ae/val_loss") == {slot: [(1, 1.0), (2, 2.0)] for slot in SLOTS}
    assert points(outcome.story, "dm/val_loss") == {slot: [(3, 3.0)] for slot in SLOTS}
    assert points(outcome.story, "ae/Total loss", "epoch") == {slot: [(1, 1.0), (2, 2.0)] for slot in SLOTS}
    weights = weights_of(bundle_of(outcome))
    start, end = weights["autoencoder.bias"], weights["diffusion_model.bias"]
    (scored,) = [plot for plot in outcome.story.plots if plot.label == "dm/val_loss"]
    assert scored.series[0].points[-1].y == pytest.approx(float(end[0]), abs=1e-5)
    (trained,) = [plot for plot in outcome.story.plots if plot.label == "ae/val_loss"]
    assert trained.series[0].points[-1].y == pytest.approx(float(start[0]), abs=1e-5)


@pytest.mark.soak
def test_a_script_under_an_optimizer_of_the_server(tmp_path: Path) -> None:
    """The same form with job type fed_opt."""
    outcome = launch(write_script_app(tmp_path / "app", job_type="fed_opt", SERVER_OPTIMIZER="adam"), tmp_path / "run")
    assert (outcome.status, outcome.exit_code) == (ModelStatus.RESULTS_UPLOADED, 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"baselines": True}, "--baselines"), ({"shares": (1.0, 2.0)}, "--shares")],
)
def test_what_a_script_has_no_use_for_is_refused_before_anything_starts(
    options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """Models to compare with, and shares of the cohort: by name, and nothing is written."""
    with pytest.raises(FlipError, match=said):
        launch(write_script_app(tmp_path / "app"), tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_a_form_is_refused_where_it_does_not_run(tmp_path: Path) -> None:
    """A script on Flower, and executor classes anywhere: before anything starts, with what to do."""
    script = write_script_app(tmp_path / "script")
    with pytest.raises(FlipError) as refused:
        run(RunOptions(app=script, engine="flower", sites=2, out=tmp_path / "run"), lambda _: None)
    assert (refused.value.code, "--engine nvflare" in refused.value.fix) == ("E0215", True)
    executor = write_script_app(tmp_path / "executor", trainer="class FLIP_TRAINER: ...")
    with pytest.raises(FlipError) as refused:
        launch(executor, tmp_path / "run")
    assert refused.value.code == "E0206"
    assert not (tmp_path / "run").exists()
