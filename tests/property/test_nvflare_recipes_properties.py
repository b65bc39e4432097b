"""No constructor argument of a recipe is lost: not in the job folder, not when that is read again."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, get_type_hints
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flip_fl.nvflare.job import CLIENT_CONFIG, SERVER_CONFIG
from flip_fl.nvflare.recipes import FlipRecipe, load_recipe
from tests.support.recipes import RECIPES, app_for

ROUNDS = st.integers(1, 1000)
# No braces: NVFLARE takes what stands between them for the name of one of its values.
TEXT = st.text(st.characters(codec="ascii", exclude_characters="{}", categories=("L", "N", "P", "Z")), max_size=40)
NAMES = st.from_regex(r"[a-z][a-z_]{0,10}", fullmatch=True)
NUMBERS = st.floats(1e-3, 1e3)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model_id": st.uuids(),
    "min_clients": st.integers(1, 50),
    "project_id": TEXT,
    "query": TEXT,
    "seed": st.integers(0, 2**32 - 1),
    "metrics": st.lists(NAMES, min_size=1, max_size=3),
    "start_timeout_s": st.integers(1, 10_000),
    "task_timeout_s": st.integers(1, 10_000),
    **dict.fromkeys(("num_rounds", "num_rounds_ae", "num_rounds_dm"), ROUNDS),
    **dict.fromkeys(("local_rounds", "local_rounds_ae", "local_rounds_dm"), ROUNDS),
    "learning_rate": NUMBERS,
    "ignore_result_error": st.booleans(),
    "aggregator": st.sampled_from(["InTimeAccumulateWeightedAggregator", "AccumulateWeightedAggregator"]),
    "aggregation_weights": st.dictionaries(st.sampled_from(["Trust_1", "Trust_2"]), NUMBERS, min_size=1),
    "best_model_metric": NAMES,
    "best_model_metric_minimize": st.booleans(),
    "aggregate_only_regex": st.sampled_from(["^weight", "bias$"]),
    "params_type": st.sampled_from(["FULL", "DIFF"]),
    "fedprox_mu": NUMBERS,
    "fedbn": st.booleans(),
    "server_checkpoint": st.sampled_from(["start.pt", "other start.pt"]),
    "cross_site_validation": st.booleans(),
    "server_optimizer": st.sampled_from(["adam", {"name": "sgd", "lr": 0.5}]),
    "models": st.dictionaries(NAMES, st.just({"checkpoint": "linear.pt"}), min_size=1, max_size=3),
}
# What says where the app lies; a reloaded job has its own copy.
PLACES = {"app", "train_script", "eval_script"}


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> dict[type[FlipRecipe], Path]:
    """One app for each recipe."""
    root = tmp_path_factory.mktemp("apps")
    return {recipe: app_for(recipe, root / recipe.__name__) for recipe in RECIPES}


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("recipe", RECIPES)
@settings(max_examples=25)
@given(data=st.data())
def test_a_job_that_is_exported_and_read_again_is_the_same(
    recipe: type[FlipRecipe], apps: dict[type[FlipRecipe], Path], data: st.DataObject
) -> None:
    """Any choice of arguments is in the recipe, in the job's files where a run reads it, and in what is reloaded."""
    names = set(get_type_hints(recipe.arguments_type)) - PLACES
    assert names <= set(VALUES)
    chosen = data.draw(st.fixed_dictionaries({}, optional={name: VALUES[name] for name in sorted(names)}))
    made = recipe(app=apps[recipe], **chosen)
    assert {name: made.arguments[name] for name in chosen} == chosen
    with tempfile.TemporaryDirectory() as folder:
        job = made.export(folder)
        again = load_recipe(job)
        assert again == made
        assert {**again.arguments, "app": None} == {**made.arguments, "app": None}
        assert everything(again.export(Path(folder) / "again")) == everything(job)
        _check_files(job, chosen, made)


def _check_files(job: Path, chosen: dict[str, Any], made: FlipRecipe) -> None:
    """What the server, the sites and the app read says what was chosen."""
    server = json.loads((job / SERVER_CONFIG).read_text())
    client = json.loads((job / CLIENT_CONFIG).read_text())
    meta = json.loads((job / "meta.json").read_text())
    config = json.loads((job / "app" / "custom" / "config.json").read_text())
    controller = server["workflows"][0]["args"]
    aggregator = next(each["args"] for each in server["components"] if each["id"] == "aggregator")
    assert UUID(meta["name"]) == UUID(meta["custom_props"]["model_id"]) == made.model_id
    assert client["project_id"] == chosen.get("project_id", "")
    for name, where in {
        **dict.fromkeys(("num_rounds", "min_clients", "start_timeout_s", "task_timeout_s"), controller),
        **dict.fromkeys(("ignore_result_error", "best_model_metric", "cross_site_validation"), controller),
        **dict.fromkeys(("query", "local_rounds"), client),
        "server_optimizer": controller,
        "aggregation_weights": aggregator,
    }.items():
        if name in chosen:
            assert where[name] == chosen[name], name
    for stage in ("ae", "dm"):
        if f"num_rounds_{stage}" in chosen:
            assert controller["stages"][stage] == chosen[f"num_rounds_{stage}"]
    for name in set(chosen) - {"model_id", "project_id", "start_timeout_s", "task_timeout_s"}:
        key = "models" if name == "models" else name.upper().replace("NUM_ROUNDS", "GLOBAL_ROUNDS")
        assert config[key] == chosen[name]
