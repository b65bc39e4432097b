"""FLIP's FL API edits each NVFLARE template; NVFLARE's own parser builds from it what the edits say."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind, from_shareable
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.workspace import Workspace
from nvflare.app_common.app_constant import AppConstants
from nvflare.private.fed.client.client_json_config import ClientJsonConfigurator
from nvflare.private.fed.server.server_json_config import ServerJsonConfigurator

from flip_fl.aggregate.average import Update
from flip_fl.aggregate.best import Score
from flip_fl.app.config import load_config
from flip_fl.errors import FlipError
from flip_fl.nvflare.aggregator import SlotOrderAggregator
from flip_fl.nvflare.filters import (
    KeepOnlyVars,
    ReconstructFullModel,
    ReconstructFullModelForEval,
    TrimBroadcastVars,
    TrimEvalBroadcastVars,
)
from flip_fl.nvflare.places import checkpoint_dir
from tests.support.evaluations import write_evaluation
from tests.support.fl_api import Submission, submitted_job
from tests.support.small_apps import write_app
from tests.support.staged_app import write_staged_app

TEMPLATES = ("standard", "fed_opt", "evaluation", "diffusion_model")
TRUSTS = ("Trust_1", "Trust_2", "Trust_10")
IDS = {"persistor", "shareable_generator", "aggregator", "model_locator", "json_generator", "flip_server_event_handler"}


def write(job_type: str, folder: Path, **config: Any) -> Path:
    """An app of ``job_type``."""
    if job_type == "diffusion_model":
        return write_staged_app(folder, **config)
    if job_type == "evaluation":
        return write_evaluation(folder, {"base": {"checkpoint": "linear.pt"}}, **config)
    return write_app(folder, job_type=job_type, **config)


def _args(job: Path, site: str) -> argparse.Namespace:
    return argparse.Namespace(
        job_id="job", workspace=str(job), client_name=site, sp_scheme="tcp", sp_target="127.0.0.1:1", set=[]
    )


def built_server(job: Path, tmp_path: Path) -> Any:
    """What NVFLARE's server makes of the job: its ``ServerRunnerConfig``."""
    return _built(ServerJsonConfigurator, "config_fed_server.json", job, tmp_path, "server")


def built_client(job: Path, tmp_path: Path) -> Any:
    """What NVFLARE's client makes of the job: its ``ClientRunnerConfig``."""
    return _built(ClientJsonConfigurator, "config_fed_client.json", job, tmp_path, TRUSTS[0])


def _built(configurator: type, name: str, job: Path, tmp_path: Path, site: str) -> Any:
    root = tmp_path / "workspace"
    for folder in ("startup", "local"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    config = job / "app" / "config" / name
    made = configurator(Workspace(str(root), site), str(config), _args(job, site), str(job / "app"))
    made.configure()
    return made.runner_config


@pytest.mark.parametrize("job_type", TEMPLATES)
def test_every_edit_reaches_what_nvflare_builds(job_type: str, tmp_path: Path) -> None:
    """Ids, rounds, quorum, weights, model id, project, query and local rounds: each where it has its effect."""
    what = Submission(
        uuid4(), TRUSTS, num_rounds=7, local_rounds=4, ignore_result_error=True, aggregation_weights={"Trust_1": 3.0}
    )
    job = submitted_job(job_type, write(job_type, tmp_path / "app"), what, tmp_path / "job")
    server, client = built_server(job, tmp_path), built_client(job, tmp_path)
    assert set(server.components) >= {*IDS, "persist_and_cleanup"}
    controller = server.workflows[0].controller
    assert controller.min_clients == 3
    aggregator = server.components["aggregator"]
    assert isinstance(aggregator, SlotOrderAggregator)
    assert aggregator.aggregation_weights == {"Trust_1": 3.0}
    assert server.components["flip_server_event_handler"].model_id == str(what.model_id)
    executor = client.task_router.task_table[next(iter(client.task_router.task_table))]
    assert (executor.project_id, executor.query, int(executor.local_rounds)) == (what.project_id, what.query, 4)
    if job_type in ("standard", "fed_opt"):
        assert (controller.num_rounds, controller.total, controller.ignore_result_error) == (7, 7, True)


@pytest.mark.parametrize("name", ["InTimeAccumulateWeightedAggregator", "AccumulateWeightedAggregator"])
def test_an_edited_weight_changes_the_average_under_either_aggregators_name(name: str, tmp_path: Path) -> None:
    """Both of NVFLARE's names mean one weighted average here; the weights decide it, not the sites' examples."""
    averages = []
    for folder, weights in (("a", {}), ("b", {"Trust_1": 3.0, "Trust_2": 1.0})):
        what = Submission(uuid4(), TRUSTS[:2], aggregator=name, aggregation_weights=weights)
        job = submitted_job("standard", write("standard", tmp_path / f"app-{folder}"), what, tmp_path / folder)
        aggregator = built_server(job, tmp_path).components["aggregator"]
        updates = [Update(f"Trust_{n}", {"w": np.float64([n]).astype("f4")}, 10 * n) for n in (1, 2)]
        averages.append(float(aggregator.average(updates)["w"][0]))
        scores = [Score(f"Trust_{n}", 10 * n, {"auc": float(n)}) for n in (1, 2)]
        assert aggregator.mean(scores)["auc"] == pytest.approx(averages[-1])
    assert averages == pytest.approx([5 / 3, 1.25])


def test_the_rounds_of_two_stages_are_those_of_the_apps_config(tmp_path: Path) -> None:
    """The API has one number of rounds and writes it nowhere in a diffusion job: config.json has both."""
    app = write_staged_app(tmp_path / "app", GLOBAL_ROUNDS_AE=3, GLOBAL_ROUNDS_DM=4)
    job = submitted_job("diffusion_model", app, Submission(uuid4(), TRUSTS, num_rounds=1), tmp_path / "job")
    controller = settled(job, tmp_path)
    assert [(stage.name, stage.first, stage.last) for stage in controller._plan] == [("ae", 1, 3), ("dm", 4, 7)]
    assert controller.total == 7


def settled(job: Path, tmp_path: Path) -> Any:
    """The job's controller after it has looked at the app's config.json and at its job's components."""
    config = built_server(job, tmp_path)
    controller = config.workflows[0].controller
    controller.get_component = config.components.get
    controller._settle(load_config(job / "app" / "custom"))
    return controller


@pytest.mark.parametrize(("edited", "kept"), [(("wrong", True), ("wrong", True)), ((None, False), ("loss", False))])
def test_the_best_model_goes_by_the_selector_of_the_api_else_by_the_apps_config(
    edited: tuple[str | None, bool], kept: tuple[str, bool], tmp_path: Path
) -> None:
    """A selector that the API adds decides by its metric and its direction; without it BEST_MODEL_METRIC does."""
    app = write("standard", tmp_path / "app", BEST_MODEL_METRIC="loss")
    what = Submission(uuid4(), TRUSTS, best_model_metric=edited[0], best_model_minimize=edited[1])
    assert settled(submitted_job("standard", app, what, tmp_path / "job"), tmp_path)._best_metric == kept


def test_local_rounds_of_the_job_are_the_apps_where_its_config_says_none(tmp_path: Path) -> None:
    """What the API writes reaches the app's ``config``; config.json goes first; nonsense is refused."""
    config = load_config(write("standard", tmp_path / "app"))
    assert config.with_local_rounds("4").raw["LOCAL_ROUNDS"] == config.with_local_rounds(4).local_rounds == 4
    assert "LOCAL_ROUNDS" not in config.with_local_rounds("1").raw
    told = load_config(write("standard", tmp_path / "told", LOCAL_ROUNDS=2))
    assert told.with_local_rounds("4").local_rounds == 2
    with pytest.raises(FlipError, match="LOCAL_ROUNDS"):
        config.with_local_rounds("many")


# In a process of its own: what NVFLARE's processes know of `flip` must come from the job's components alone.
LOADED = """
import sys
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.contract import test_fl_api_edits as t
job, tmp = Path({job!r}), Path({tmp!r})
server, client = t.built_server(job, tmp), t.built_client(job, tmp)
for table in (server.task_data_filters, client.task_data_filters, client.task_result_filters):
    print({{key: [type(each).__name__ for each in filters] for key, filters in table.items()}})
"""


@pytest.mark.parametrize("job_type", ["standard", "fed_opt"])
def test_head_only_filters_load_by_the_paths_that_the_api_writes(job_type: str, tmp_path: Path) -> None:
    """``flip.nvflare.components.…`` in a job is ours, in NVFLARE's own processes, without a ``flip`` installed."""
    app = write(job_type, tmp_path / "app", AGGREGATE_ONLY_REGEX="bias")
    what = Submission(uuid4(), TRUSTS, aggregate_only_regex="bias")
    job = submitted_job(job_type, app, what, tmp_path / "job")
    program = LOADED.format(root=str(Path(__file__).parents[2]), job=str(job), tmp=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    sent, received, returned = done.stdout.splitlines()[-3:]
    assert "TrimBroadcastVars" in sent
    assert "TrimEvalBroadcastVars" in sent
    assert received.count("ReconstructFullModelForEval") == 2
    assert "KeepOnlyVars" in returned


def _through(filter: Any, arrays: dict[str, int], round: int = 0, kind: str = DataKind.WEIGHTS) -> dict[str, Any]:
    message = DXO(kind, data={name: np.float32([value]) for name, value in arrays.items()}).to_shareable()
    message.set_header(AppConstants.CURRENT_ROUND, round)
    message.set_header("flip_reports", "kept")
    out: Shareable = filter.process(message, FLContext())
    assert out.get_header("flip_reports") == "kept"
    return {name: int(array[0]) for name, array in from_shareable(out).data.items()}


def test_head_only_filters_do_what_they_say() -> None:
    """Under any controller: all of a model goes out once, then its head; sites put it together; the head returns."""
    model = {"body.w": 1, "head.w": 2}
    assert _through(TrimBroadcastVars("^head"), model, 0) == model
    assert _through(TrimBroadcastVars("^head"), model, 1) == {"head.w": 2}
    assert _through(TrimEvalBroadcastVars("^head"), model, 0) == {"head.w": 2}
    whole = ReconstructFullModelForEval()
    assert isinstance(whole, ReconstructFullModel)
    assert _through(whole, model) == model
    assert _through(whole, {"head.w": 5}, 1) == {"body.w": 1, "head.w": 5}
    assert _through(whole, {"other.w": 7}, 2) == {"other.w": 7}
    for kind in (DataKind.WEIGHTS, DataKind.WEIGHT_DIFF):
        assert _through(KeepOnlyVars("^head"), model, 3, kind) == {"head.w": 2}
    assert _through(KeepOnlyVars("^head"), {"loss": 1}, 0, DataKind.METRICS) == {"loss": 1}


class _Places:
    """As much of a context as names a job's folders."""

    def __init__(self, config: Path) -> None:
        self._config = config

    def get_engine(self) -> _Places:
        return self

    get_workspace = get_engine

    def get_job_id(self) -> str:
        return "job"

    def get_app_config_dir(self, job_id: str) -> str:
        return str(self._config)


@pytest.mark.parametrize("named", ["../other", "custom", "config", "/tmp", "a/b", "..", 7])
def test_a_checkpoint_folder_outside_the_jobs_own_is_refused(named: Any, tmp_path: Path) -> None:
    """``environment.json`` names where models lie, and that folder is removed at the end: never another's."""
    where: Any = _Places(tmp_path)
    assert checkpoint_dir(where) is None
    (tmp_path / "environment.json").write_text(json.dumps({"APP_CKPT_DIR": "weights"}))
    assert checkpoint_dir(where) == "weights"
    (tmp_path / "environment.json").write_text(json.dumps({"APP_CKPT_DIR": named}))
    with pytest.raises(FlipError, match="APP_CKPT_DIR"):
        checkpoint_dir(where)
