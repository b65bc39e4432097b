"""``flip-fl results verify`` and ``export``: what they say of a bundle, and what they refuse."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from flip_fl.app.weights import export_model
from flip_fl.commands.answers import ExportAnswer, VerifyAnswer
from flip_fl.errors import FlipError
from flip_fl.results.bundle import build
from flip_fl.results.contents import EVALUATED
from flip_fl.results.scores import Again, again, recorded, whose
from tests.contract.test_cli_json import checked
from tests.support.app import ARRAYS, write_app
from tests.support.cli import flip_fl

TRAINER = """
def validate(model, site, config):
    cohort = site.cohort()
    return {"num_examples": len(cohort), "sum": cohort["value"].sum() + model.bias.item()}
"""
SITES = {"Trust_1": [1.0, 2.0], "Trust_2": [5.0, 6.0]}
RECORDED = {"Trust_1": 103.0, "Trust_2": 111.0}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle, an evaluation's, and the data of two sites."""
    root = tmp_path_factory.mktemp("results")
    app = write_app(root / "app", trainer=TRAINER)
    bundled(root, app, "model.zip", RECORDED)
    bundled(root, app, "other.zip", {"Trust_1": 103.1})
    bundled(root, app, "silent.zip", {})
    (root / "evaluated" / "evaluation_results").mkdir(parents=True)
    for name, text in (("results", '{"Trust_1": {"SRV_net": {"num_examples": 4, "auc": 0.5}}}'), ("failures", "[]")):
        (root / "evaluated" / "evaluation_results" / f"evaluation_{name}.json").write_text(text)
    build(root / "evaluated", root / "evaluated.zip", app_dir=app, contents=EVALUATED)
    for slot, values in SITES.items():
        (root / f"{slot}.csv").write_text("\n".join(["value", *map(str, values)]) + "\n")
    (root / "foreign.csv").write_text("value\n7\n")
    return root


def bundled(root: Path, app: Path, name: str, recorded: Mapping[str, float]) -> None:
    """A bundle that says that the sum was ``recorded`` at each site."""
    contents = root / f"contents of {name}"
    (contents / "cross_site_val").mkdir(parents=True)
    export_model(app, {key: array + 100 for key, array in ARRAYS.items()}, contents / "FL_global_model.pt")
    scores: dict[str, Any] = {slot: {"SRV_FL_global_model.pt": {"sum": value}} for slot, value in recorded.items()}
    (contents / "cross_site_val" / "cross_val_results.json").write_text(json.dumps(scores))
    build(contents, root / name, app_dir=app, model_id="m-1", global_round=5)


def test_without_data_what_was_not_tried_is_said(there: Path) -> None:
    """A check that did not take place must not look like one that succeeded."""
    done = flip_fl("results", "verify", "model.zip", cwd=there)
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "ok: 5 files match their digests; FL_global_model.pt loads"
    assert "Trust_2: sum 111 was recorded" in lines
    assert "not tried: to score the model again takes a site's data (--data SLOT=CSV)" in lines
    assert checked(flip_fl("results", "verify", "model.zip", "--json", cwd=there).document(), VerifyAnswer).scores == []


def test_the_score_is_had_again_on_the_sites_data(there: Path) -> None:
    """By its name, and without it: whose data it is shows by the score."""
    named = ("--data", "Trust_1=Trust_1.csv", "--data", "Trust_2=Trust_2.csv")
    answer = checked(flip_fl("results", "verify", "model.zip", *named, "--json", cwd=there).document(), VerifyAnswer)
    assert {score.slot: (score.recorded, score.reproduced) for score in answer.scores} == {
        slot: (value, value) for slot, value in RECORDED.items()
    }
    done = flip_fl("results", "verify", "model.zip", "--data", "Trust_2.csv", cwd=there)
    assert "Trust_2: sum 111, as the run recorded it" in done.stdout.splitlines()
    assert "Trust_1: sum" not in done.stdout


def test_a_score_that_is_not_had_again_is_a_failure(there: Path) -> None:
    """Exit code 1 and both numbers: a model that scores something else is not the run's."""
    done = flip_fl("results", "verify", "other.zip", "--data", "Trust_1=Trust_1.csv", cwd=there)
    assert done.exit_code == 1
    assert done.stderr.startswith("error[FLIP-E0702]: ")
    assert "its model scores sum 103 on the data of Trust_1, the run recorded 103.1" in done.stderr


CASES: Mapping[str, tuple[str, dict[str, str], str, str]] = {
    "another site's data": (
        "model.zip", {"Trust_2": "Trust_1.csv"}, "sum 103 on the data of Trust_2", "the very data",
    ),
    "a site that was not there": ("model.zip", {"Trust_9": "Trust_1.csv"}, "no score of Trust_9", "Trust_1, Trust_2"),
    "nobody's data": ("model.zip", {"": "foreign.csv"}, "scores sum 107, which is what no site", "Trust_1=CSV"),
    "nothing recorded": ("silent.zip", {"": "Trust_1.csv"}, "it has no score of any site", "leave out --data"),
    "an evaluation": ("evaluated.zip", {"": "Trust_1.csv"}, "it has no score of any site", "leave out --data"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_data_on_which_no_recorded_score_is_had(there: Path, case: str) -> None:
    """Data that is not a site's reproduces nothing, and that is said instead of a score that means nothing."""
    name, data, what, fix = CASES[case]
    bundle, cohorts = there / name, {slot: there / csv for slot, csv in data.items()}
    told = recorded(bundle)
    with pytest.raises(FlipError) as caught:
        whose(bundle, told, cohorts[""]) if "" in cohorts else again(bundle, told, cohorts)
    assert (caught.value.code, what in caught.value.what, fix in caught.value.fix) == ("E0702", True, True)


def test_a_score_that_is_no_number_is_never_had_again() -> None:
    """NaN equals nothing: a metric that is missing, or broken in the same way twice, reproduces no score."""
    assert not Again("Trust_1", "auc", math.nan, math.nan).holds
    assert not Again("Trust_1", "auc", 0.5, math.nan).holds
    assert Again("Trust_1", "auc", 0.5, 0.5 + 1e-7).holds


def test_data_that_is_not_there_is_a_wrong_command_line(there: Path) -> None:
    """Before the model is loaded, and by its name."""
    done = flip_fl("results", "verify", "model.zip", "--data", "Trust_1=gone.csv", cwd=there)
    assert done.exit_code == 2
    assert "there is no file gone.csv" in done.stderr


def test_an_evaluation_is_verified_without_a_model(there: Path) -> None:
    """It says that it has none, and no score is missed."""
    done = flip_fl("results", "verify", "evaluated.zip", cwd=there)
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "ok: 5 files match their digests; the results of the evaluation can be read"
    assert "not tried" not in done.stdout


def test_a_model_is_exported_once(there: Path, tmp_path: Path) -> None:
    """The file runs without the app; a second time nothing is replaced unasked."""
    words = ("results", "export", str(there / "model.zip"), "--format", "torchscript", "--shape", "2")
    answer = checked(flip_fl(*words, "--json", cwd=tmp_path).document(), ExportAnswer)
    assert (answer.path, answer.batches, answer.format) == (Path("FL_global_model.ts"), [1, 2, 5], "torchscript")
    assert answer.max_difference <= answer.tolerance
    given = torch.jit.load(str(tmp_path / answer.path))(torch.ones(3, 2))
    assert given.tolist() == [[300.0]] * 3
    again = flip_fl(*words, cwd=tmp_path)
    assert (again.exit_code, "error[FLIP-E0703]" in again.stderr) == (5, True)
    assert flip_fl(*words, "--overwrite", cwd=tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("model.zip", "--format", "torchscript"), 1, "give one input's shape without the batch, as --shape 1,28,28"),
        (("model.zip", "--format", "torchscript", "--shape", "2,x"), 2, "--shape 2,x is none"),
        (("evaluated.zip", "--format", "torchscript", "--shape", "2"), 1, "it has no model FL_global_model.pt"),
        (("model.zip", "--format", "tensorflow"), 2, "torchscript"),
    ],
)
def test_what_cannot_be_exported_says_what_to_do(there: Path, words: tuple[str, ...], code: int, told: str) -> None:
    """And leaves no file."""
    before = sorted(path.name for path in there.iterdir())
    done = flip_fl("results", "export", *words, cwd=there)
    assert done.exit_code == code
    assert told in done.stderr
    assert sorted(path.name for path in there.iterdir()) == before
