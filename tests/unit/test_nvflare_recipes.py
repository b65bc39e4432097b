"""What recipes take and refuse, and what NVFLARE makes of their jobs."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from nvflare.fuel.utils.zip_utils import zip_directory_to_bytes
from nvflare.private.fed.server.job_meta_validator import JobMetaValidator

from flip_fl.errors import FlipError
from flip_fl.nvflare.recipes import (
    FlipDiffusionRecipe,
    FlipEvalRecipe,
    FlipFedAvgRecipe,
    FlipFedOptRecipe,
    FlipRecipe,
    load_recipe,
)
from flip_fl.values import JobType
from tests.support.recipes import RECIPES, SCRIPT, app_for
from tests.support.small_apps import write_app


@pytest.mark.parametrize("recipe", RECIPES)
def test_nvflares_server_takes_the_job(recipe: type[FlipRecipe], tmp_path: Path) -> None:
    """What decides at submission whether a job is one: its meta data, its configs, that it brings code."""
    made = recipe(app=app_for(recipe, tmp_path / "app"), min_clients=2)
    made.export(tmp_path / "jobs")
    zipped = zip_directory_to_bytes(str(tmp_path / "jobs"), made.name)
    valid, error, meta = JobMetaValidator().validate(made.name, zipped)
    assert (valid, error) == (True, "")
    assert (meta["name"], meta["min_clients"]) == (made.name, 2)


def test_an_app_without_a_quorum_has_a_job_that_needs_all_sites(tmp_path: Path) -> None:
    """NVFLARE takes no quorum of 0; the controller does: all sites of the job."""
    made = FlipFedAvgRecipe(app=write_app(tmp_path / "app"))
    assert made.values.min_clients == 0
    made.export(tmp_path)
    valid, error, meta = JobMetaValidator().validate(made.name, zip_directory_to_bytes(str(tmp_path), made.name))
    assert valid, error
    assert meta["min_clients"] == 1


def test_a_recipe_takes_apps_of_its_kind_alone(tmp_path: Path) -> None:
    """A standard app runs under an optimizer, too; any other mismatch names the recipe that fits."""
    app = write_app(tmp_path / "app")
    assert FlipFedOptRecipe(app=app, server_optimizer="adam").config.job_type is JobType.FED_OPT
    assert FlipFedAvgRecipe(train_script=app / "trainer.py") != FlipFedOptRecipe(app=app)
    for recipe in (FlipEvalRecipe, FlipDiffusionRecipe):
        with pytest.raises(FlipError, match="job_type") as refused:
            recipe(app=app)
        assert "FlipFedAvgRecipe" in refused.value.fix


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"num_rounds": 0}, "GLOBAL_ROUNDS"),
        ({"aggregation_weights": {"Trust_1": -1.0}}, "AGGREGATION_WEIGHTS"),
        ({"start_timeout_s": 0}, "start_timeout_s"),
        ({"task_timeout_s": True}, "task_timeout_s"),
        ({"train_script": "train.py"}, "the script"),
    ],
)
def test_a_bad_argument_is_refused_by_name(wrong: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Never replaced in silence; what is no argument at all is a TypeError."""
    app = write_app(tmp_path / "app")
    with pytest.raises(FlipError, match=named):
        FlipFedAvgRecipe(**{"app": app, **wrong})
    nonsense: dict[str, Any] = {"num_round": 3}
    with pytest.raises(TypeError, match="num_round"):
        FlipFedAvgRecipe(app=app, **nonsense)
    assert "num_rounds" in inspect.signature(FlipFedAvgRecipe).parameters


def test_two_recipes_differ_where_their_jobs_would(tmp_path: Path) -> None:
    """Equality is that of the jobs: another round, another line of code, another model are another job."""
    app, known = write_app(tmp_path / "app"), "0190a5b2-0000-7000-8000-000000000001"
    made = FlipFedAvgRecipe(app=app, model_id=known)
    assert made == FlipFedAvgRecipe(app=app, model_id=known)
    assert made != FlipFedAvgRecipe(app=app, model_id=known, num_rounds=9)
    assert made != FlipFedAvgRecipe(app=app)
    job = made.export(tmp_path / "jobs")
    assert load_recipe(job) == made
    (job / "app" / "custom" / "trainer.py").write_text("# another one")
    assert load_recipe(job) != made


def test_an_export_replaces_an_earlier_one_and_nothing_else(tmp_path: Path) -> None:
    """A folder that is no job of this name is left alone; nothing half-written stays."""
    made = FlipFedAvgRecipe(app=write_app(tmp_path / "app"))
    job = made.export(tmp_path / "jobs")
    (job / "app" / "custom" / "old.py").write_text("")
    assert not (made.export(tmp_path / "jobs") / "app" / "custom" / "old.py").exists()
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == [made.name]
    (tmp_path / "other" / made.name).mkdir(parents=True)
    with pytest.raises(FileExistsError):
        made.export(tmp_path / "other")


def test_the_command_line_is_the_scripts_until_the_job_is_executed(tmp_path: Path) -> None:
    """Importing recipes leaves ``--export`` to the script; with it ``execute`` writes the job, as NVFLARE's own do."""
    script = tmp_path / "job.py"
    script.write_text(SCRIPT.format(app=str(write_app(tmp_path / "app")), root=str(tmp_path / "sim")))
    command = [sys.executable, str(script), "--export", "--export-dir", str(tmp_path / "jobs")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"['--export', '--export-dir', '{tmp_path / 'jobs'}'] False")
    (job,) = (tmp_path / "jobs").iterdir()
    assert load_recipe(job).arguments["num_rounds"] == 3
    assert not (tmp_path / "sim").exists()


class _Session:
    """A session with an FL server, as far as a submission goes."""

    def __init__(self) -> None:
        self.submitted: dict[str, bytes] = {}

    def submit_job(self, path: str) -> str:
        self.submitted = {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}
        return "the job's id"

    def close(self) -> None:
        return


def test_what_a_production_environment_submits_is_the_exported_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NVFLARE's own ``ProdEnv`` writes the job by itself: it must be the same, byte for byte."""
    from nvflare.recipe.prod_env import ProdEnv
    from nvflare.recipe.session_mgr import SessionManager

    session = _Session()
    monkeypatch.setattr(SessionManager, "_get_session", lambda self: session)
    made = FlipFedAvgRecipe(app=write_app(tmp_path / "app"), project_id="sealed project")
    run = made.execute(ProdEnv(startup_kit_location=str(tmp_path)))
    assert run.get_job_id() == "the job's id"
    job = made.export(tmp_path / "jobs")
    assert session.submitted == {p.relative_to(job).as_posix(): p.read_bytes() for p in job.rglob("*") if p.is_file()}
