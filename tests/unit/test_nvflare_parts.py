"""The thin parts of the NVFLARE side that need no running engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from nvflare.apis.dxo import DXO, DataKind
from nvflare.apis.shareable import Shareable
from nvflare.app_common.widgets.component_path_authorizer import ComponentPathAuthorizer

from flip_fl.app.config import load_config
from flip_fl.app.failures import Failure
from flip_fl.app.faults import AppError
from flip_fl.app.isolation.call import IsolatedCall
from flip_fl.app.isolation.rules import Isolation, Level
from flip_fl.app.script import Script
from flip_fl.errors import FlipError
from flip_fl.jobs.templates import JobValues, template_dir
from flip_fl.nvflare.aggregator import SlotOrderAggregator
from flip_fl.nvflare.controller import FlipController, RoundFailed
from flip_fl.nvflare.evaluation import FlipEvaluation
from flip_fl.nvflare.executor import FlipExecutor, call_of
from flip_fl.nvflare.filters import KeepOnlyVars, TrimBroadcastVars, TrimEvalBroadcastVars
from flip_fl.nvflare.job import CLIENT_CONFIG, SERVER_CONFIG, write_job
from flip_fl.nvflare.locator import CheckpointLocator, StoreLocator
from flip_fl.nvflare.model_id import find_model_id
from flip_fl.nvflare.persistor import ArrayPersistor
from flip_fl.nvflare.protocol import get_batch, get_failure, put_batch, put_failure
from flip_fl.nvflare.recipes import FlipFedAvgRecipe
from flip_fl.nvflare.reporter import FlipReporter, model_bytes
from flip_fl.nvflare.results_json import ResultsJson
from flip_fl.nvflare.upload import UploadResults
from flip_fl.provision.nvflare import ALLOWED_CLASSES
from flip_fl.wire import SiteBatch
from tests.support.small_apps import write_app

SLOT = "Trust_2"


def metric(client: str) -> dict[str, object]:
    """One metric as a site's batch carries it."""
    return {"kind": "metric", "client": client, "label": "loss", "result": 0.5, "global_round": 1}


def test_a_batch_is_the_same_on_the_server() -> None:
    """Task, numbers and items of a site's batch survive the engine's message; without one there is none."""
    shareable = Shareable()
    batch = SiteBatch(task="train", stage="ae", round=3, first=200, made=202, items=[metric(SLOT), metric("Trust_1")])
    put_batch(shareable, batch)
    assert get_batch(shareable) == batch
    assert get_batch(Shareable()) is None


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"trainer.py": "class FLIP_TRAINER: ..."}, ("FLIP_TRAINER", "train(model, site, config)")),
        ({"validator.py": "class FLIP_VALIDATOR: ..."}, ("FLIP_VALIDATOR", "nvflare.client")),
        ({"trainer.py": "", "client_app.py": ""}, ("runs on flower", "--engine flower")),
    ],
)
def test_a_form_that_is_not_run_here_is_refused_at_the_site(
    files: dict[str, str], said: tuple[str, ...], tmp_path: Path
) -> None:
    """In a job, whoever has made it, the site's report names what shows the form, and what to do."""
    app = write_app(tmp_path / "custom")
    for name, text in files.items():
        (app / name).write_text(text)
    with pytest.raises(AppError) as refused:
        call_of(app, "a-job", {}, Isolation(), Level.FULL, local=False)
    assert all(words in str(refused.value) for words in said)


@pytest.mark.parametrize("trainer", [None, "import nvflare.client"])
def test_a_site_runs_no_app_that_asks_for_secure_aggregation(trainer: str | None, tmp_path: Path) -> None:
    """Whoever wrote the job, and whichever controller asks: an update that was to be masked does not leave plain."""
    app = write_app(tmp_path / "custom", SECURE_AGGREGATION=True)
    if trainer is not None:
        (app / "trainer.py").write_text(trainer)
    with pytest.raises(AppError, match="SECURE_AGGREGATION is true, and nvflare has none that FLIP can use"):
        call_of(app, "a-job", {}, Isolation(), Level.FULL, local=False)
    with pytest.raises(RoundFailed, match="SECURE_AGGREGATION is true, and nvflare has none that FLIP can use"):
        FlipController()._settle(load_config(app))
    with pytest.raises(FlipError, match="SECURE_AGGREGATION is true"):
        FlipFedAvgRecipe(app=app)


def test_the_way_to_the_code_is_the_form_s(tmp_path: Path) -> None:
    """Functions are called behind the site's walls, in this process only where it has none; a script in its own."""
    app = write_app(tmp_path / "custom")
    walled = call_of(app, "a-job", {}, Isolation(), Level.FULL, local=False)
    assert isinstance(walled, IsolatedCall)
    assert walled.level is Level.FULL
    assert call_of(app, "a-job", {}, Isolation(), Level.NONE, local=True) is None
    (app / "trainer.py").write_text("import nvflare.client")
    for level in Level:
        assert isinstance(call_of(app, "a-job", {}, Isolation(), level, local=False), Script)


def test_a_failure_report_survives_the_reply() -> None:
    """Task, round and traceback of a client's failure are the same on the server."""
    failure = Failure(slot=SLOT, task="train", round=3, type="ValueError", traceback="Traceback\nValueError: <value>")
    shareable = Shareable()
    put_failure(shareable, failure)
    assert get_failure(shareable) == failure
    assert get_failure(Shareable()) is None


def test_the_size_of_a_result_is_that_of_its_arrays() -> None:
    """Bytes of a model are counted; a reply without a model has no size."""
    weights = DXO(DataKind.WEIGHTS, data={"w": np.zeros((2, 3), dtype=np.float32)}).to_shareable()
    scores = DXO(DataKind.METRICS, data={"loss": 0.1}).to_shareable()
    assert model_bytes(weights) == 24
    assert model_bytes(scores) is None
    assert model_bytes(Shareable()) is None


class TestModelId:
    """The places where a job's model id is looked up, in their order."""

    @pytest.fixture
    def places(self, tmp_path: Path) -> tuple[Path, Path]:
        (tmp_path / "meta.json").write_text(json.dumps({"name": "a job", "custom_props": {"model_id": ""}}))
        (tmp_path / "config.json").write_text("{}")
        return tmp_path, tmp_path / "meta.json"

    def test_order(self, places: tuple[Path, Path]) -> None:
        """The component's argument wins over config.json, that over meta.json, that over the job's name."""
        app, meta = places
        given, configured, prop, name = (uuid4() for _ in range(4))
        meta.write_text(json.dumps({"name": str(name)}))
        assert find_model_id("", app, meta) == name
        meta.write_text(json.dumps({"name": str(name), "custom_props": {"model_id": str(prop)}}))
        assert find_model_id("", app, meta) == prop
        (app / "config.json").write_text(json.dumps({"FLIP_MODEL_ID": str(configured)}))
        assert find_model_id("", app, meta) == configured
        assert find_model_id(str(given), app, meta) == given

    def test_none(self, places: tuple[Path, Path]) -> None:
        """Without any id the error names every place that was looked at."""
        with pytest.raises(FlipError) as refused:
            find_model_id("", *places)
        for place in ("argument model_id", "FLIP_MODEL_ID", "custom_props.model_id", "the job's name is 'a job'"):
            assert place in refused.value.what

    def test_a_path_is_no_id(self, places: tuple[Path, Path]) -> None:
        """A model id that could climb in a URL is not taken."""
        with pytest.raises(FlipError):
            find_model_id("../../admin", *places)


def test_a_job_is_the_template_with_the_jobs_values(tmp_path: Path) -> None:
    """Rounds, quorum, weights, query and model id land where NVFLARE and FLIP's API look for them."""
    model_id = UUID("00000000-0000-7000-8000-000000000001")
    values = JobValues(
        model_id=model_id, num_rounds=7, min_clients=2, aggregation_weights={"Trust_1": 2.0}, query="select 1"
    )
    job = write_job(write_app(tmp_path / "app"), "standard", values, tmp_path / "job")
    server = json.loads((job / SERVER_CONFIG).read_text())
    client = json.loads((job / CLIENT_CONFIG).read_text())
    meta = json.loads((job / "meta.json").read_text())
    assert server["workflows"][0]["args"]["num_rounds"] == 7
    assert server["workflows"][0]["args"]["min_clients"] == 2
    aggregator = next(each for each in server["components"] if each["id"] == "aggregator")
    assert aggregator["args"]["aggregation_weights"] == {"Trust_1": 2.0}
    assert (client["query"], client["local_rounds"]) == ("select 1", 1)
    assert meta["custom_props"]["model_id"] == str(model_id)
    assert (job / "app" / "custom" / "trainer.py").is_file()


def test_data_settings_and_keys_are_never_part_of_a_job(tmp_path: Path) -> None:
    """Cohorts, images, settings files and keys beside an app stay at home."""
    app = write_app(tmp_path / "app")
    (app / "images").mkdir()
    names = (".env", ".env.local", "server.env", "cohort.csv", "cohort.CSV", "cohort.parquet", "secrets.json", "id_rsa")
    for name in (*names, "site.key", "images/scan.nii.gz"):
        (app / name).write_text("CANARY")
    (tmp_path / "elsewhere.py").write_text("CANARY")
    (app / "linked.py").symlink_to(tmp_path / "elsewhere.py")
    job = write_job(app, "standard", JobValues(model_id=uuid4(), num_rounds=1, min_clients=1), tmp_path / "job")
    assert not [path for path in job.rglob("*") if path.is_file() and "CANARY" in path.read_text()]


@pytest.mark.parametrize("name", ["sitecustomize.py", "usercustomize.py", "nvflare_decomposers"])
def test_code_that_the_server_would_run_by_itself_is_refused(name: str, tmp_path: Path) -> None:
    """Python and NVFLARE import these modules in the FL server's process, which holds the hub's key."""
    app = write_app(tmp_path / "app")
    (app / name).mkdir() if "." not in name else (app / name).write_text("print()")
    with pytest.raises(FlipError) as refused:
        write_job(app, "standard", JobValues(model_id=uuid4(), num_rounds=1, min_clients=1), tmp_path / "job")
    assert refused.value.code == "E0207"
    assert name in refused.value.what
    assert not (tmp_path / "job").exists()


def component_paths(config: Any) -> Iterator[str]:
    """Every class that a template names."""
    if isinstance(config, dict):
        if isinstance(config.get("path"), str):
            yield config["path"]
        config = list(config.values())
    if isinstance(config, list):
        for each in config:
            yield from component_paths(each)


def test_every_component_loads_and_is_on_the_allow_list_that_kits_carry() -> None:
    """A job without custom code may use only classes that a kit's policy names; NVFLARE's own matching decides."""
    templates = sorted(template_dir("nvflare", "standard").parent.iterdir())
    assert len(templates) > 1
    paths = {
        path
        for template in templates
        for file in (SERVER_CONFIG, CLIENT_CONFIG)
        for path in component_paths(json.loads((template / file).read_text()))
    }
    assert any(path.startswith("flip_fl.nvflare.") for path in paths)
    for path in paths:
        module, _, name = path.rpartition(".")
        assert hasattr(import_module(module), name)
        assert any(ComponentPathAuthorizer._path_matches_prefix(path, prefix) for prefix in ALLOWED_CLASSES), path


@pytest.mark.parametrize(
    "component",
    [
        FlipReporter,
        FlipController,
        FlipEvaluation,
        UploadResults,
        ArrayPersistor,
        SlotOrderAggregator,
        StoreLocator,
        CheckpointLocator,
        ResultsJson,
        KeepOnlyVars,
        TrimBroadcastVars,
        TrimEvalBroadcastVars,
        FlipExecutor,
    ],
)
def test_no_constructor_argument_is_lost_when_a_job_is_exported(component: type) -> None:
    """NVFLARE writes the arguments that an object keeps under their own names: each must be there and unchanged."""
    parameters = [name for name in signature(component.__init__).parameters if name != "self"]
    kinds = {"num_rounds": 7, "min_clients": 3, "start_timeout_s": 11, "task_timeout_s": 13}
    kinds |= {"ignore_result_error": True, "best_model_minimize": True, "aggregation_weights": {"Trust_1": 2.0}}
    kinds |= {"local_rounds": 5}
    kinds |= {"stages": {"ae": 2, "dm": 3}, "cross_site_validation": True}
    given = {name: kinds.get(name, f"the {name}") for name in parameters}
    built = component(**given)
    assert {name: getattr(built, name) for name in parameters} == given
