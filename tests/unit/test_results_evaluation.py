"""What an evaluation found, as it is kept, told and delivered."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from flip_fl.app.config import load_config
from flip_fl.app.evaluation import EXECUTION_EXCEPTION, MODEL_NOT_FOUND, MODEL_UNUSABLE, NotEvaluated, load_model
from flip_fl.errors import FlipError
from flip_fl.results.bundle import build
from flip_fl.results.contents import EVALUATED
from flip_fl.results.contents import EVALUATION as RESULTS
from flip_fl.results.contents import EVALUATION_FAILURES as FAILURES
from flip_fl.results.evaluation import Evaluation, checked
from flip_fl.results.verify import read_evaluation, verify
from tests.support.evaluations import write_evaluation

MODELS = {"base": {"checkpoint": "linear.pt"}, "wide": {"checkpoint": "wide.pt", "path": "wide"}}


def found() -> Evaluation:
    """Of two models at two sites: one result, one failure at a site, one model that nobody evaluated."""
    one = Evaluation(("base", "lost"), ("Trust_1", "Trust_2"))
    one.returned("base", "Trust_1", checked(120, {"auc": 0.75, "roc": {"fpr": [0, 1]}}))
    one.failed("base", ["Trust_2"], EXECUTION_EXCEPTION, "ValueError")
    one.failed("lost", one.sites, MODEL_NOT_FOUND, "there is no checkpoint lost.pt")
    return one


def test_what_failed_is_said_with_its_share() -> None:
    """Equal failures of several sites are one; with no result at all there is a problem, and it names the reasons."""
    one = found()
    assert one.problem is None
    assert one.note == (
        "3 of 4 evaluations failed: base at Trust_2: ValueError; "
        "lost at Trust_1 and Trust_2: there is no checkpoint lost.pt"
    )
    one.results.clear()
    assert (one.problem or "").startswith("no model was evaluated at any site: base at Trust_2: ValueError")
    assert Evaluation(("base",), ("Trust_1",), results={"Trust_1": {"base": {}}}).note is None


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """A server that was killed goes on with exactly what it knew."""
    assert Evaluation.read(tmp_path) is None
    one = found()
    one.done, one.identity = 2, "this job"
    one.save(tmp_path)
    assert Evaluation.read(tmp_path) == one


def test_the_bundle_of_an_evaluation_needs_no_model_and_is_verified(tmp_path: Path) -> None:
    """Both files, code and config; a file that is not of the form, or without its failures, is no bundle."""
    app = write_evaluation(tmp_path / "app", MODELS)
    found().write(tmp_path / "contents")
    build(tmp_path / "contents", tmp_path / "one.zip", app_dir=app, contents=EVALUATED)
    assert verify(tmp_path / "one.zip").models == ()
    assert read_evaluation(tmp_path / "one.zip") == {
        "Trust_1": {"SRV_base": {"num_examples": 120, "auc": 0.75, "roc": {"fpr": [0, 1]}}}
    }
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert json.loads(archive.read(FAILURES))[0] == {
            "model": "base", "client": "Trust_2", "return_code": "EXECUTION_EXCEPTION",
        }  # fmt: skip
        assert not [name for name in archive.namelist() if name.endswith(".pt")]
    (tmp_path / "contents" / FAILURES).unlink()
    with pytest.raises(FlipError, match="there is no evaluation_results"):
        build(tmp_path / "contents", tmp_path / "two.zip", app_dir=app, contents=EVALUATED)


@pytest.mark.parametrize(
    "content",
    [{}, [], {"Trust_1": {}}, {"Trust_1": {"base": {"num_examples": 1, "auc": 1.0}}},
     {"Trust_1": {"SRV_base": {"num_examples": 1}}}, {"Trust_1": {"SRV_base": {"num_examples": 1, "auc": "high"}}},
     {"Trust_1": {"SRV_base": {"auc": 1.0}}}],
)  # fmt: skip
def test_results_of_another_form_are_refused(content: Any, tmp_path: Path) -> None:
    """An empty file is no result, nor is one whose values are no numbers."""
    app = write_evaluation(tmp_path / "app", MODELS)
    found().write(tmp_path / "contents")
    (tmp_path / "contents" / RESULTS).write_text(json.dumps(content))
    build(tmp_path / "contents", tmp_path / "one.zip", app_dir=app, contents=EVALUATED)
    with pytest.raises(FlipError) as refused:
        verify(tmp_path / "one.zip")
    assert refused.value.code == "E0702"


@pytest.mark.parametrize(
    ("examples", "values"),
    [(True, {"auc": 1.0}), (-1, {"auc": 1.0}), (1.5, {"auc": 1.0}), (1, {}), (1, {"auc": float("nan")}),
     (1, {"auc": "x"}), (1, {"P 943 476 5919": 1.0}), (1, {"roc": [None]}),
     (1, {"roc": {"x": {"y": {"z": {"a": [1]}}}}}), (1, {"num_examples": 3})],
)  # fmt: skip
def test_the_server_checks_what_a_site_returned(examples: Any, values: dict[str, Any]) -> None:
    """Whatever a site's process has made of its own rules, nothing else gets into the results."""
    with pytest.raises(NotEvaluated) as refused:
        checked(examples, values)
    assert refused.value.code == "EXECUTION_RESULT_ERROR"
    assert "5919" not in str(refused.value)


def test_each_model_is_built_by_its_path_and_loaded_strictly(tmp_path: Path) -> None:
    """A model with a path comes from get_model_for_path; weights that do not fit, or are not there, have their code."""
    models = {**MODELS, "unlike": {"checkpoint": "wide.pt"}, "lost": {"checkpoint": "lost.pt"}}
    app = write_evaluation(tmp_path / "app", models)
    config = load_config(app)
    assert list(load_model(config, "base", [app]).sent) == ["weight", "bias"]
    assert list(load_model(config, "wide", [app]).sent) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    for name, code in (("unlike", MODEL_UNUSABLE), ("lost", MODEL_NOT_FOUND)):
        with pytest.raises(NotEvaluated) as refused:
            load_model(config, name, [app])
        assert refused.value.code == code
    (app / "models.py").write_text("import torch\n\ndef get_model():\n    return torch.nn.Linear(3, 1)\n")
    with pytest.raises(NotEvaluated, match="has no function get_model_for_path"):
        load_model(config, "wide", [app])
