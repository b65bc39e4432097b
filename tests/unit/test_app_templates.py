"""New apps: each is whole, checked, clean and learns, in the house's runner alone; runs of engines are elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.app.inspection import inspect_app
from flip_fl.app.plan import stages_of
from flip_fl.app.weights import load_models, starting_model
from flip_fl.errors import FlipError
from flip_fl.jobs.app_templates import write_new_app
from flip_fl.values import JobType, Task
from tests.support.app_templates import OneSite

KINDS = [(job_type, imaging) for job_type in JobType for imaging in (False, True)]
NAMES = [f"{job_type.value}{'-imaging' if imaging else ''}" for job_type, imaging in KINDS]
SLOTS = ("Trust_1", "Trust_2")


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[JobType, bool], Path]:
    folder = tmp_path_factory.mktemp("new")
    for kind, name in zip(KINDS, NAMES, strict=True):
        write_new_app(folder / name, kind[0], imaging=kind[1])
    return dict(zip(KINDS, (folder / name for name in NAMES), strict=True))


@pytest.mark.parametrize("kind", KINDS, ids=NAMES)
def test_a_new_app_has_nothing_to_mend(kind: tuple[JobType, bool], apps: dict[Any, Path]) -> None:
    """It passes the check that everybody's app passes, on both engines, with its model built."""
    found = inspect_app(apps[kind], slots=SLOTS)
    assert ([problem.what for problem in found.problems], found.doubts) == ([], ())
    assert all(each.runs for each in found.runs)
    assert found.job_type is kind[0]
    assert found.config is not None
    assert found.config.imaging is kind[1]
    assert found.shapes


def test_new_apps_are_clean_and_say_how_they_are_run(apps: dict[Any, Path]) -> None:
    """What people begin with is linted and formatted, and its README has the one line to run it, filled."""
    folder = next(iter(apps.values())).parent
    config = Path(__file__).parents[2] / "pyproject.toml"
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", "--config", str(config), str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    for app in apps.values():
        readme = (app / "README.md").read_text()
        assert f"\nflip-fl run {app.name} " in readme
        assert "$" not in readme
        listed = {line.split("`")[1] for line in readme.splitlines() if line.startswith("| `")}
        assert listed == {path.name for path in app.iterdir()} - {"README.md"}
        json.loads((app / "config.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("imaging", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_new_app_learns_from_real_data(imaging: bool, apps: dict[Any, Path], tmp_path: Path) -> None:
    """Three rounds at one site lift the accuracy on held-out patients far above chance."""
    app = apps[JobType.STANDARD, imaging]
    site = OneSite(app, tmp_path / "data")
    arrays, scores = site.trained(starting_model(app).sent)
    site.close()
    assert scores[-1].metrics["accuracy"] > (0.75 if imaging else 0.9)
    assert scores[-1].metrics["accuracy"] > scores[0].metrics["accuracy"]
    assert scores[0].num_examples == scores[-1].num_examples > 100
    # An evaluation of the same data comes with what this trains.
    other = apps[JobType.EVALUATION, imaging]
    (shapes,) = load_models(other, [other / "baseline.pt"], "baseline")
    assert {name: shape for name, (shape, _) in shapes.items()} == {name: np.shape(a) for name, a in arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize("imaging", [False, True])
def test_a_new_evaluation_scores_its_checkpoint(imaging: bool, apps: dict[Any, Path], tmp_path: Path) -> None:
    """The checkpoint is a trained one, and the table of confusions counts each held-out patient once."""
    app = apps[JobType.EVALUATION, imaging]
    site = OneSite(app, tmp_path / "data")
    arrays = starting_model(app, "baseline", checkpoint=app / "baseline.pt").sent
    result = site.run(Task.EVALUATE, arrays, model="baseline")
    site.close()
    assert result.metrics["accuracy"] > (0.75 if imaging else 0.9)
    assert np.sum(result.supplementary["confusion"]) == result.num_examples


@pytest.mark.slow
@pytest.mark.parametrize("imaging", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_a_new_diffusion_model_learns_in_both_stages(imaging: bool, apps: dict[Any, Path], tmp_path: Path) -> None:
    """Each stage's loss falls, and stage 2 leaves what stage 1 has made as it is."""
    app = apps[JobType.DIFFUSION, imaging]
    site = OneSite(app, tmp_path / "data")
    before = None
    for stage in stages_of(site.config):
        start = starting_model(app, stage.name, previous=before).sent
        arrays, scores = site.trained(start, rounds=2, stage=stage.name)
        # Before the first round batch norm knows no scale: that loss is of another size.
        assert scores[2].metrics["loss"] < scores[1].metrics["loss"], stage.name
        if before is not None:
            assert all(np.array_equal(arrays[f"autoencoder.{name}"], array) for name, array in before.items())
        before = arrays
    site.close()


def test_what_exists_is_left_alone(tmp_path: Path) -> None:
    """A folder, a file and a link that leads nowhere are refused, and a failed writing leaves nothing."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(FlipError) as caught:
            write_new_app(tmp_path / name, JobType.STANDARD, imaging=False)
        assert caught.value.code == "E0219"
    with pytest.raises(FlipError) as caught:
        write_new_app(tmp_path / "file" / "app", JobType.STANDARD, imaging=False)
    assert caught.value.code == "E0220"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "link"]
    assert (tmp_path / "file").read_text() == "mine"
