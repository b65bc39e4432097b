"""What belongs into a bundle is said by data: jobs without a model of their own, with several, or with pictures."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.app.weights import export_model
from flip_fl.errors import FlipError
from flip_fl.results.bundle import build
from flip_fl.results.contents import EVALUATED, TRAINED, Contents, Item, Kind
from flip_fl.results.manifest import Manifest
from flip_fl.results.verify import reproduce, verify
from tests.support.app import ARRAYS, write_app

SCORES = {"Trust_1": {"SRV_net": {"num_examples": 40, "auc": 0.9, "confusion": [[30, 2], [3, 5]]}}}
FAILURES = [{"model": "net", "client": "Trust_2", "return_code": "EXECUTION_EXCEPTION"}]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
STAGED = """
import torch

def get_model(stage):
    return torch.nn.Linear(2 if stage == "ae" else 3, 1)
"""
DIFFUSED = Contents(
    (
        Item("FL_global_model.pt", Kind.MODEL, required=True, stage="dm"),
        Item("FL_global_model_ae.pt", Kind.MODEL, required=True, stage="ae"),
        Item("samples/sample_1.png", Kind.PICTURE, required=True),
    )
)


def evaluated(folder: Path, scores: Any = SCORES, failures: Any = FAILURES) -> Path:
    """The files of an evaluation in ``folder``."""
    (folder / "evaluation_results").mkdir(parents=True)
    for name, content in (("results", scores), ("failures", failures)):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "evaluation_results" / f"evaluation_{name}.json").write_text(text, encoding="utf-8")
    return folder


def diffused(root: Path) -> tuple[Path, Path]:
    """The app of a two-stage job and its result files: two models of different shapes, and pictures."""
    app = write_app(root / "app", models=STAGED, config={"job_type": "diffusion_model", "IMAGING": False})
    folder = root / "contents"
    (folder / "samples").mkdir(parents=True)
    wide: Mapping[str, Any] = {"weight": np.zeros((1, 3), dtype=np.float32), "bias": np.zeros(1, dtype=np.float32)}
    export_model(app, wide, folder / "FL_global_model.pt", "dm")
    export_model(app, ARRAYS, folder / "FL_global_model_ae.pt", "ae")
    for name in ("sample_1.png", "patient_scan.png"):
        (folder / "samples" / name).write_bytes(PNG)
    return folder, app


def test_an_evaluation_has_no_model_of_its_own(tmp_path: Path) -> None:
    """Its results are two documents and the code: they are enough, and nothing is loaded."""
    app, folder = write_app(tmp_path / "app"), evaluated(tmp_path / "contents")
    build(folder, tmp_path / "e.zip", app_dir=app, model_id="m", contents=EVALUATED)
    verified = verify(tmp_path / "e.zip", EVALUATED)
    assert (verified.models, verified.parameters) == ((), {})
    assert set(verified.manifest.files) == {
        "config.json", "models.py", "trainer.py", "evaluation_results/evaluation_results.json",
        "evaluation_results/evaluation_failures.json",
    }  # fmt: skip
    assert verified.manifest.left_out == ()
    with pytest.raises(FlipError, match=r"it has no FL_global_model\.pt"):
        reproduce(tmp_path / "e.zip", {"Trust_1": tmp_path / "cohort.csv"})


@pytest.mark.parametrize(
    ("scores", "failures", "words"),
    [
        ({}, FAILURES, "evaluation_results.json: no client has a result in it"),
        ({"Trust_1": {}}, FAILURES, "no client has a result in it"),
        ([], FAILURES, "it is not of the form {client: {model: {name: number}}}"),
        ({"Trust_1": [1]}, FAILURES, "it is not of the form {client: {model: {name: number}}}"),
        ({"Trust_1": {"SRV_net": {"auc": "Zorkmid"}}}, FAILURES, "something else than finite numbers"),
        ('{"Trust_1": {"SRV_net": {"auc": NaN}}}', FAILURES, "something else than finite numbers"),
        ({"Trust_1": {"SRV_net": {"auc": [True]}}}, FAILURES, "something else than finite numbers"),
        ("{", FAILURES, "it is no JSON"),
        (SCORES, {}, "evaluation_failures.json: it is not of the form [{model, client, return_code}]"),
        (SCORES, [{"model": "net", "client": "Trust_2"}], "it is not of the form [{model, client, return_code}]"),
        (SCORES, [{**FAILURES[0], "text": "Zorkmid"}], "it is not of the form [{model, client, return_code}]"),
        (SCORES, [{**FAILURES[0], "client": 2}], "it is not of the form [{model, client, return_code}]"),
    ],
)
def test_documents_of_another_form_are_no_results(tmp_path: Path, scores: Any, failures: Any, words: str) -> None:
    """An empty file of results once was a success; and what is wrong in a file is told without its values."""
    app, folder = write_app(tmp_path / "app"), evaluated(tmp_path / "contents", scores, failures)
    build(folder, tmp_path / "e.zip", app_dir=app, contents=EVALUATED)
    with pytest.raises(FlipError) as caught:
        verify(tmp_path / "e.zip")
    assert words in caught.value.what
    assert "Zorkmid" not in caught.value.text()


def test_a_job_of_two_stages_has_two_models_and_the_pictures_that_it_names(tmp_path: Path) -> None:
    """Each model loads into its own stage's; a picture that was not declared stays out like any image."""
    folder, app = diffused(tmp_path)
    manifest = build(folder, tmp_path / "d.zip", app_dir=app, contents=DIFFUSED)
    assert "samples/: 1 file, not part of the results" in manifest.left_out
    with zipfile.ZipFile(tmp_path / "d.zip") as archive:
        assert archive.getinfo("samples/sample_1.png").compress_type == zipfile.ZIP_STORED
        assert "samples/patient_scan.png" not in archive.namelist()
    verified = verify(tmp_path / "d.zip", DIFFUSED)
    assert verified.models == ("FL_global_model.pt", "FL_global_model_ae.pt")
    assert verified.parameters["weight"] == ((1, 3), "float32")


def test_a_model_of_another_stage_or_a_picture_that_is_none_is_found(tmp_path: Path) -> None:
    """Two stages' models must not change places, and nothing but a PNG passes as one."""
    folder, app = diffused(tmp_path)
    models = [folder / "FL_global_model.pt", folder / "FL_global_model_ae.pt"]
    first, second = (path.read_bytes() for path in models)
    models[0].write_bytes(second)
    build(folder, tmp_path / "d.zip", app_dir=app, contents=DIFFUSED)
    with pytest.raises(FlipError, match=r"the weights do not fit get_model"):
        verify(tmp_path / "d.zip")
    models[0].write_bytes(first)
    (folder / "samples" / "sample_1.png").write_bytes(b"name,age\nZorkmid,61\n")
    build(folder, tmp_path / "d.zip", app_dir=app, contents=DIFFUSED)
    with pytest.raises(FlipError, match=r"samples/sample_1\.png: it is no PNG"):
        verify(tmp_path / "d.zip")


@pytest.mark.parametrize("missing", ["FL_global_model_ae.pt", "samples/sample_1.png"])
def test_what_a_job_has_declared_must_be_there(tmp_path: Path, missing: str) -> None:
    """A result that the job names and does not have is no success."""
    folder, app = diffused(tmp_path)
    (folder / missing).unlink()
    with pytest.raises(FlipError, match=f"there is no {missing}"):
        build(folder, tmp_path / "d.zip", app_dir=app, contents=DIFFUSED)


def test_files_from_elsewhere_are_put_in_by_name(tmp_path: Path) -> None:
    """What a job keeps in a folder of its own is not copied first; what is not declared is named as left out."""
    app, folder = write_app(tmp_path / "app"), evaluated(tmp_path / "elsewhere")
    files = {item.name: folder / item.name for item in EVALUATED.items if item.required}
    (tmp_path / "notes.txt").write_text("Zorkmid")
    manifest = build(
        tmp_path / "nothing", tmp_path / "e.zip", app_dir=app, contents=EVALUATED,
        files={**files, "notes.txt": tmp_path / "notes.txt"},
    )  # fmt: skip
    assert set(files) <= set(manifest.files)
    assert manifest.left_out == ("notes.txt: not part of the results",)
    verify(tmp_path / "e.zip", EVALUATED)


def test_a_bundle_of_another_kind_of_job_is_not_what_was_expected(tmp_path: Path) -> None:
    """A bundle says itself what it must hold: whoever knows better is not told a success."""
    app, folder = write_app(tmp_path / "app"), evaluated(tmp_path / "contents")
    build(folder, tmp_path / "e.zip", app_dir=app, contents=EVALUATED)
    with pytest.raises(FlipError, match="it is of another kind of job than was expected"):
        verify(tmp_path / "e.zip", TRAINED)


def test_a_manifest_repeats_what_belongs_in(tmp_path: Path) -> None:
    """Whoever opens a bundle years later asks of it what the job had promised; one without it is a trained model's."""
    manifest = Manifest(files={}, contents=DIFFUSED)
    assert Manifest.from_json(manifest.to_json()) == manifest
    older = {name: value for name, value in json.loads(manifest.to_json()).items() if name != "contents"}
    assert Manifest.from_json(json.dumps(older)).contents == TRAINED


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../model.pt", Kind.MODEL),
        ("/model.pt", Kind.MODEL),
        ("a//model.pt", Kind.MODEL),
        ("a\\model.pt", Kind.MODEL),
        ("cohort.csv", Kind.DOCUMENT),
        ("config.json", Kind.DOCUMENT),
        ("manifest.json", Kind.DOCUMENT),
        ("models.py", Kind.DOCUMENT),
        ("sample.png", Kind.MODEL),
        ("study.dcm", Kind.PICTURE),
        ("", Kind.DOCUMENT),
    ],
)
def test_no_declaration_lets_data_or_a_way_out_in(name: str, kind: Kind) -> None:
    """A job's declaration opens the bundle for models, JSON and PNG only, below its root."""
    with pytest.raises(ValueError, match="cannot be called"):
        Item(name, kind)


@pytest.mark.parametrize(
    "contents",
    [
        [],
        {"items": {}},
        {"items": [3]},
        {"items": [{"name": "a.json", "kind": "program"}]},
        {"items": [{"name": 3, "kind": "document"}]},
        {"items": [{"name": "a.json", "kind": "document"}] * 2},
    ],
)
def test_malformed_contents_are_a_value_error(contents: Any) -> None:
    """A manifest from elsewhere is looked at before it is believed."""
    with pytest.raises(ValueError, match=r"\w"):
        Manifest.from_json(json.dumps({"schema": "flip-fl.bundle/1", "contents": contents}))
