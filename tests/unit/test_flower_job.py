"""Filling Flower's job template, and what Flower makes of the filled folder."""

from __future__ import annotations

import io
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate

from flip_fl.errors import FlipError
from flip_fl.flower import run_config
from flip_fl.flower.job import MAX_DEPTH, check_bundled, read_config, with_config, write_job
from flip_fl.jobs.templates import JobValues, template_dir
from tests.support.small_apps import write_app

MODEL = UUID("12345678-1234-4234-8234-123456789abc")
VALUES = JobValues(
    model_id=MODEL,
    num_rounds=7,
    min_clients=2,
    slots=("Trust_1", "Trust_2"),
    best_model_metric="auc",
    best_model_minimize=True,
    project_id="opaque",
    query="SELECT 1",
)
# Run config keys that researchers' apps are documented to read.
DOCUMENTED = {
    "num-server-rounds",
    "local-epochs",
    "learning-rate",
    "batch-size",
    "val-split",
    "test-split",
    "dp-enabled",
    "dp-clipping-norm",
    "dp-sensitivity",
    "dp-epsilon",
    "dp-delta",
    "best-model-metric",
    "best-model-metric-minimize",
    "flip-model-id",
    "flip-project-id",
    "flip-cohort-query",
    "flip-job-dir",
    "flip-min-clients",
}


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A small app with what must not travel beside it."""
    folder = write_app(tmp_path / "app")
    (folder / "cohort.csv").write_text("person_id\n")
    (folder / "keys.yaml").write_text("key: 1\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "layers.py").write_text("")
    return folder


def fab(job: Path) -> zipfile.ZipFile:
    """What Flower would send to the sites."""
    return zipfile.ZipFile(io.BytesIO(build_fab_from_disk(job)))


def test_the_template_declares_every_documented_key_with_its_type() -> None:
    """A key that is not declared cannot be given to flwr run; one of another type is refused by it."""
    config = read_config(template_dir("flower", "standard"))
    assert config.keys() >= DOCUMENTED
    assert config.keys() - DOCUMENTED == {run_config.SLOTS, run_config.START_TIMEOUT, run_config.PHASE_TIMEOUT}
    whole = {"num-server-rounds", "local-epochs", "batch-size", "flip-min-clients"}
    assert {key for key, value in config.items() if type(value) is int} == whole | {
        run_config.START_TIMEOUT,
        run_config.PHASE_TIMEOUT,
    }
    assert [type(config[key]) for key in ("dp-enabled", "dp-delta", "flip-cohort-query")] == [bool, float, str]


def test_a_filled_job_holds_the_run_and_keeps_the_templates_comments(app: Path, tmp_path: Path) -> None:
    """The values arrive as they are, and a person who opens the file still finds what each key means."""
    job = write_job(app, "standard", VALUES, tmp_path / "job")
    template = template_dir("flower", "standard")
    filled = {
        "flip-model-id": str(MODEL),
        "flip-project-id": "opaque",
        "flip-cohort-query": "SELECT 1",
        "flip-slots": "Trust_1,Trust_2",
        "num-server-rounds": 7,
        "flip-min-clients": 2,
        "best-model-metric": "auc",
        "best-model-metric-minimize": True,
    }
    assert read_config(job) == {**read_config(template), **filled}
    comments = [line for line in (template / "pyproject.toml").read_text().splitlines() if line.startswith("#")]
    assert comments
    assert [line for line in (job / "pyproject.toml").read_text().splitlines() if line.startswith("#")] == comments


@pytest.mark.parametrize(
    "query", ['say "a" \\ b', "one\ntwo\ttab", "\x7f\x01 é 😀 — 中", "]\nflip-slots = 'x'", "'''\"\"\""]
)
def test_no_text_breaks_out_of_its_key(query: str, app: Path, tmp_path: Path) -> None:
    """A query is somebody's text: it arrives as it was written, and sets no other key."""
    job = write_job(app, "standard", replace(VALUES, query=query), tmp_path / "job")
    expected = read_config(template_dir("flower", "standard")).keys()
    config = read_config(job)
    assert config["flip-cohort-query"] == query
    assert config["flip-slots"] == "Trust_1,Trust_2"
    assert config.keys() == expected


def test_a_key_that_the_template_does_not_declare_is_a_bug_that_shows() -> None:
    """Filling a key that is not there must not pass in silence: the run would not know of it."""
    text = (template_dir("flower", "standard") / "pyproject.toml").read_text()
    assert tomllib.loads(with_config(text, {"batch-size": 8}))["tool"]["flwr"]["app"]["config"]["batch-size"] == 8
    with pytest.raises(KeyError):
        with_config(text, {"batch_size": 8})


def test_flower_takes_the_job_and_bundles_code_and_config_alone(app: Path, tmp_path: Path) -> None:
    """The bundle that goes to the sites is small and holds the app's modules, and no data or key that lay beside it."""
    job = write_job(app, "standard", VALUES, tmp_path / "job")
    _, warnings = load_and_validate(job / "pyproject.toml")
    assert not warnings
    names = set(fab(job).namelist())
    assert names == {
        ".info/CONTENT",
        "README.md",
        "app/config.json",
        "app/models.py",
        "app/parts/layers.py",
        "app/prepare.py",
        "app/trainer.py",
        "flip_job/__init__.py",
        "flip_job/client_app.py",
        "flip_job/server_app.py",
        "pyproject.toml",
    }
    assert len(build_fab_from_disk(job)) < 20_000


DROPPED = ("test_parts.py", "parts_test.py", "parts/test_deep.py", "net.egg/b.py", "test_x.py/inner.py")
KEPT = ("lib/layers.py", "build/x.py", "env/y.py", "venv/z.py", "test_data/a.py", "test.py", "testing.py", "x_tests.py")


@pytest.mark.parametrize("name", DROPPED)
def test_a_module_that_flower_would_leave_out_is_refused_by_name(name: str, app: Path, tmp_path: Path) -> None:
    """An app must not lose a module on its way to the sites and fail there."""
    job = write_job(app, "standard", VALUES, tmp_path / "job")
    for folder in (app, job / "app"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("")
    assert f"app/{name}" not in fab(job).namelist()
    with pytest.raises(FlipError) as refused:
        write_job(app, "standard", VALUES, tmp_path / "other")
    assert refused.value.code == "E0208"
    assert name in refused.value.what


def test_no_module_is_refused_that_would_arrive(app: Path, tmp_path: Path) -> None:
    """Flower's rules for folders like lib/ hold at the top of a job alone, and the app lies below that."""
    for name in KEPT:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text("")
    assert {f"app/{name}" for name in KEPT} <= set(fab(write_job(app, "standard", VALUES, tmp_path / "job")).namelist())


def test_folders_too_deep_for_flower_are_refused_by_name(app: Path, tmp_path: Path) -> None:
    """Flower ends `flwr run` at the eleventh folder; the same app is told so before anything starts."""
    deepest = app.joinpath(*"abcdefghi")
    deepest.mkdir(parents=True)
    (deepest / "fits.py").write_text("")
    check_bundled(app)
    assert len((deepest / "fits.py").relative_to(app).parts) == MAX_DEPTH
    assert "app/a/b/c/d/e/f/g/h/i/fits.py" in fab(write_job(app, "standard", VALUES, tmp_path / "job")).namelist()
    (deepest / "j").mkdir()
    (deepest / "j" / "lost.py").write_text("")
    with pytest.raises(FlipError) as refused:
        check_bundled(app)
    assert "lost.py" in refused.value.what


def test_a_module_that_the_server_would_run_is_refused(app: Path, tmp_path: Path) -> None:
    """The server, which holds the hub's key, must not import a researcher's sitecustomize."""
    (app / "sitecustomize.py").write_text("")
    with pytest.raises(FlipError) as refused:
        write_job(app, "standard", VALUES, tmp_path / "job")
    assert refused.value.code == "E0207"
    assert not (tmp_path / "job").exists()
