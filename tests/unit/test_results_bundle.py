"""The results bundle: whole, rebuildable, without anything that must not leave; and what is not a bundle is found."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from flip_fl.app.weights import export_model
from flip_fl.errors import FlipError
from flip_fl.results.bundle import build, fingerprint
from flip_fl.results.manifest import Manifest
from flip_fl.results.verify import read_manifest, reproduce, verify
from tests.support.app import ARRAYS, write_app

TRAINER = """
import layers
def validate(model, site, config):
    cohort = site.cohort()
    return {"num_examples": len(cohort), "sum": cohort["value"].sum() + model.bias.item(), "round": site.round}
"""
LEAVE_OUT = {
    ".env": "KEY=Zorkmid",
    "secret.key": "Zorkmid",
    "cohort.csv": "name\nZorkmid\n",
    "ACC0098817263.nii.gz": "Zorkmid",
    "images/ACC0098817263/input_1.nii.gz": "Zorkmid",
    "images/ACC0098817264/input_1.nii.gz": "Zorkmid",
    "data/patients.json": "Zorkmid",
    "notes.txt": "Zorkmid",
    "__pycache__/models.cpython-311.pyc": "Zorkmid",
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A results folder with one model, and its app with things that must not leave."""
    root = tmp_path_factory.mktemp("results")
    app = write_app(root / "app", trainer=TRAINER, layers="", sub="")
    (app / "parts").mkdir()
    (app / "parts" / "__init__.py").write_text("", encoding="utf-8")
    folder = root / "contents"
    (folder / "cross_site_val").mkdir(parents=True)
    export_model(app, {name: array + 100 for name, array in ARRAYS.items()}, folder / "FL_global_model.pt")
    (folder / "metrics.json").write_text('{"auc": [0.5, 0.75]}', encoding="utf-8")
    (folder / "cross_site_val" / "cross_val_results.json").write_text("{}", encoding="utf-8")
    for place in (app, folder):
        for name, text in LEAVE_OUT.items():
            path = place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    (app / "linked.py").symlink_to("/etc/passwd")
    return folder, app


@pytest.fixture
def bundle(results: tuple[Path, Path], tmp_path: Path) -> Path:
    folder, app = results
    build(folder, tmp_path / "results.zip", app_dir=app, model_id="m-1", global_round=5)
    return tmp_path / "results.zip"


def test_what_is_in_a_bundle(bundle: Path) -> None:
    """The named results, the whole code, the config; models are stored, texts deflated."""
    with zipfile.ZipFile(bundle) as archive:
        names = sorted(archive.namelist())
        stored = {info.filename for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED}
        everything = b"".join(archive.read(name) for name in names)
    assert names == [
        "FL_global_model.pt", "config.json", "cross_site_val/cross_val_results.json", "layers.py", "manifest.json",
        "metrics.json", "models.py", "parts/__init__.py", "sub.py", "trainer.py",
    ]  # fmt: skip
    assert stored == {"FL_global_model.pt"}
    assert b"Zorkmid" not in everything
    assert b"98817263" not in everything
    assert b"root:" not in everything


def test_what_was_left_out_is_named_with_its_reason(bundle: Path) -> None:
    """Nothing is left out in silence, and no patient's number is in the names."""
    manifest = read_manifest(bundle)
    for line in (
        ".env: settings and keys never leave",
        "secret.key: settings and keys never leave",
        "cohort.csv: data never leaves",
        "<a name>.gz: data never leaves",
        "images/: 2 files, not part of the results",
        "data/: 1 file, not part of the results",
        "notes.txt: not part of the results",
        "__pycache__/: 1 file, not part of the results",
    ):
        assert manifest.left_out.count(line) == 2, line
    assert "linked.py: not part of the results" in manifest.left_out
    assert "best_FL_global_model.pt: no round was kept as the best (BEST_MODEL_METRIC)" in manifest.left_out
    assert len(manifest.left_out) == 18
    assert (manifest.model_id, manifest.global_round) == ("m-1", 5)
    assert {"numpy", "torch", "flip_fl"} <= set(manifest.versions)


def test_the_same_results_give_the_same_bytes(results: tuple[Path, Path], bundle: Path, tmp_path: Path) -> None:
    """A bundle that is built again has the digest that the hub was told."""
    folder, app = results
    build(folder, tmp_path / "again.zip", app_dir=app, model_id="m-1", global_round=5)
    assert fingerprint(tmp_path / "again.zip") == fingerprint(bundle)


def test_a_bundle_is_verified_and_its_score_had_again(bundle: Path, tmp_path: Path) -> None:
    """Digests hold, the model loads, and validate gives on a site's data what it gave in the run."""
    verified = verify(bundle)
    assert verified.models == ("FL_global_model.pt",)
    assert verified.parameters == {"weight": ((1, 2), "float32"), "bias": ((1,), "float32")}
    pd.DataFrame({"value": [1.0, 2.0]}).to_csv(tmp_path / "cohort.csv", index=False)
    assert reproduce(bundle, {"Trust_1": tmp_path / "cohort.csv"}) == {"Trust_1": {"sum": 103.0, "round": 5.0}}


@pytest.mark.parametrize("missing", ["FL_global_model.pt", "models.py", "config.json"])
def test_a_bundle_that_rebuilds_nothing_is_not_built(missing: str, results: tuple[Path, Path], tmp_path: Path) -> None:
    """Without the model, its code or its config there is nothing to report as a success."""
    import shutil

    folder, app = (shutil.copytree(part, tmp_path / part.name, symlinks=True) for part in results)
    (folder / missing).unlink(missing_ok=True)
    (app / missing).unlink(missing_ok=True)
    with pytest.raises(FlipError, match=f"there is no {missing}"):
        build(folder, tmp_path / "results.zip", app_dir=app)


def rewritten(bundle: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    """The bundle with other contents."""
    with zipfile.ZipFile(bundle) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    target = bundle.with_name("changed.zip")
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def manifest_of(files: dict[str, bytes]) -> dict[str, object]:
    return json.loads(files["manifest.json"])  # type: ignore[no-any-return]


def flip_a_byte(files: dict[str, bytes]) -> None:
    data = bytearray(files["FL_global_model.pt"])
    data[len(data) // 2] ^= 1
    files["FL_global_model.pt"] = bytes(data)


def lead_out(files: dict[str, bytes]) -> None:
    manifest = manifest_of(files)
    manifest["files"]["../evil.py"] = manifest["files"]["models.py"]  # type: ignore[index]
    files["manifest.json"] = json.dumps(manifest).encode()
    files["../evil.py"] = files["models.py"]


def other_model(files: dict[str, bytes]) -> None:
    """Consistent digests, but code that the weights do not fit."""
    import hashlib

    files["models.py"] = files["models.py"].replace(b"Linear(2, 1)", b"Linear(3, 1)")
    manifest = manifest_of(files)
    manifest["files"]["models.py"] = {  # type: ignore[index]
        "sha256": hashlib.sha256(files["models.py"]).hexdigest(),
        "size_bytes": len(files["models.py"]),
    }
    files["manifest.json"] = json.dumps(manifest).encode()


CHANGES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "a byte of the model": (flip_a_byte, "FL_global_model.pt is not what the manifest says"),
    "a longer file": (lambda f: f.update({"metrics.json": b" " * 9999}), "metrics.json is not what the manifest says"),
    "a missing file": (lambda f: f.pop("models.py"), "models.py is in the manifest but not in the bundle"),
    "an extra file": (lambda f: f.update({"extra.py": b""}), "1 files are not in the manifest"),
    "no manifest": (lambda f: f.pop("manifest.json"), "it has no manifest.json"),
    "a manifest that is no JSON": (lambda f: f.update({"manifest.json": b"{"}), "its manifest.json cannot be read"),
    "another schema": (lambda f: f.update({"manifest.json": b"{}"}), "it is not of the form flip-fl.bundle/1"),
    "a path that leads out": (lead_out, "a path that leads out of the bundle"),
    "code that does not fit": (other_model, "the weights do not fit get_model()"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_changed_after_the_run_is_found(change: str, bundle: Path) -> None:
    """A bundle that is not the run's own is named as such, with the first thing that is wrong."""
    alter, words = CHANGES[change]
    changed = rewritten(bundle, alter)  # type: ignore[arg-type]
    with pytest.raises(FlipError) as caught:
        verify(changed)
    assert caught.value.code == "E0702"
    assert words in caught.value.what
    assert not (bundle.parent / "evil.py").exists()


def test_what_is_no_zip_at_all(tmp_path: Path) -> None:
    """A missing or foreign file is an error of the catalogue, not a traceback."""
    with pytest.raises(FlipError, match="there is no such file"):
        verify(tmp_path / "none.zip")
    (tmp_path / "text.zip").write_text("hello", encoding="utf-8")
    with pytest.raises(FlipError, match="it is not a zip"):
        verify(tmp_path / "text.zip")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        '{"schema": "flip-fl.bundle/1", "files": {"a": 3}}',
        '{"schema": "flip-fl.bundle/1", "left_out": [3]}',
        '{"schema": "flip-fl.bundle/1", "files": {"a": {"sha256": "x", "size_bytes": true}}}',
    ],
)
def test_a_malformed_manifest_is_a_value_error(text: str) -> None:
    """Each part is looked at before it is used."""
    with pytest.raises(ValueError, match=r"\w"):
        Manifest.from_json(text)


def test_the_query_stays_out_of_a_bundle(results: tuple[Path, Path], tmp_path: Path) -> None:
    """SQL may name a patient: the bundle's config.json has all but the QUERY, the manifest says so, and it is sound."""
    folder, given = results
    app = tmp_path / "app"
    shutil.copytree(given, app, symlinks=True)
    config = json.loads((app / "config.json").read_text(encoding="utf-8"))
    query = "SELECT * FROM omop.cohort WHERE name <> 'Zorkmid'"
    (app / "config.json").write_text(json.dumps({**config, "QUERY": query}), encoding="utf-8")
    manifest = build(folder, tmp_path / "results.zip", app_dir=app, model_id="m-1", global_round=5)
    with zipfile.ZipFile(tmp_path / "results.zip") as archive:
        assert json.loads(archive.read("config.json")) == config
        assert b"Zorkmid" not in b"".join(archive.read(name) for name in archive.namelist())
    assert "config.json, QUERY: SQL stays with the job" in manifest.left_out
    verify(tmp_path / "results.zip")
    assert json.loads((app / "config.json").read_text(encoding="utf-8"))["QUERY"] == query
