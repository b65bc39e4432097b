"""Secure aggregation of a real app, from its ClientApp to the server's run: behind filters, masked at the grid."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.serverapp.strategy import FedAvg

from flip_fl.aggregate.average import Update, weighted_average
from flip_fl.aggregate.fixed_point import encoded, step_of
from flip_fl.app.config import load_config
from flip_fl.flower import RunFailed, run
from flip_fl.flower.apps import house_strategy
from flip_fl.flower.client import client_app
from flip_fl.flower.local_grid import LocalGrid
from flip_fl.flower.local_site import DirectSite
from flip_fl.flower.mods import FilterContext, filters
from flip_fl.flower.protocol import QUERY_KEYS, QUERY_SEAL, QUERY_TELL, get_report
from flip_fl.flower.secure_average import SecureAverage
from flip_fl.flower.secure_site import MASKED
from tests.support.flower import direct_grid, initial
from tests.support.flower_client import ask, settle, task_message
from tests.support.flower_client import context as at_node
from tests.support.flower_packages import write_package
from tests.support.small_apps import write_app

Arrays = dict[str, np.ndarray[Any, Any]]


class Watched(LocalGrid):
    """A grid that keeps what it hands to the server."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.handed: list[Message] = []

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = super().pull_messages(message_ids)
        self.handed += found
        return found


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("FLIP_SETTINGS_DIR", str(tmp_path / "trusts"))


def context() -> Context:
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})


def numpy_of(record: ArrayRecord) -> Arrays:
    return {name: array.numpy().copy() for name, array in record.items()}


def test_a_real_app_s_update_is_filtered_and_then_masked(tmp_path: Path) -> None:
    """Filters get the model, the server gets noise, and the new model is the mean of what the filters let out."""
    app = write_app(tmp_path / "app", GLOBAL_ROUNDS=1, SECURE_AGGREGATION=True)
    let_out: dict[str, Arrays] = {}
    sent: dict[str, Arrays] = {}

    def watch(record: ArrayRecord, about: FilterContext) -> ArrayRecord:
        sent[about.slot], let_out[about.slot] = numpy_of(about.sent), numpy_of(record)
        return record

    slots = [f"Trust_{number}" for number in (1, 2, 3)]
    for slot in slots:
        settle(app, tmp_path / "trusts", slot)
    sites = [DirectSite(slot, client_app(app, mods=[filters(watch)])) for slot in slots]
    grid = Watched(sites)
    result = run(house_strategy, grid, context(), app_dir=app, model_id=uuid4(), slots=slots)
    arrays = [record for reply in grid.handed for record in reply.content.array_records.values()]
    assert [[(name, array.dtype) for name, array in record.items()] for record in arrays] == [[(MASKED, "uint64")]] * 3
    examples = 240  # each of them has the whole cohort
    for record in arrays:
        vector = record[MASKED].numpy()
        for slot in slots:
            assert not (vector == encoded(sent[slot], let_out[slot], examples, 1024.0)).any()
    assert sorted(let_out) == slots
    expected = weighted_average([Update(slot, let_out[slot], examples) for slot in slots])
    for name, array in expected.items():
        np.testing.assert_allclose(result.arrays[name].numpy(), array, rtol=1e-7, atol=step_of(1024.0))


@pytest.mark.parametrize("sites", [1, 2])
def test_too_few_sites_end_the_run_at_the_server(sites: int, tmp_path: Path) -> None:
    """Wherever a job comes from, nobody's update is told by a mean of two: it ends before anybody trains."""
    app = write_app(tmp_path / "app", SECURE_AGGREGATION=True)
    slots = [f"Trust_{number}" for number in range(1, sites + 1)]
    with pytest.raises(RunFailed, match=f"secure aggregation needs at least 3 sites, {sites} are chosen"):
        run(house_strategy, direct_grid(sites), context(), app_dir=app, model_id=uuid4(), slots=slots)


def test_a_strategy_of_one_s_own_is_refused(tmp_path: Path) -> None:
    """A strategy that is given masked numbers would average noise: it is not started."""
    app = write_app(tmp_path / "app", SECURE_AGGREGATION=True)
    slots = ["Trust_1", "Trust_2", "Trust_3"]
    with pytest.raises(RunFailed, match="SECURE_AGGREGATION is flip_fl's own average: FedAvg would need each site's"):
        run(FedAvg(), direct_grid(3), context(), app_dir=app, model_id=uuid4(), slots=slots, arrays=initial())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"CROSS_SITE_VALIDATION": True}, "CROSS_SITE_VALIDATION"),
        ({"AGGREGATION_WEIGHTS": {"Trust_1": 1, "Trust_2": 1, "Trust_3": 1}}, "AGGREGATION_WEIGHTS"),
        ({"MIN_CLIENTS": 2}, "MIN_CLIENTS"),
        ({"job_type": "evaluation", "models": {"a": {"checkpoint": "a.pt"}}}, "SECURE_AGGREGATION"),
        ({"job_type": "diffusion_model"}, "SECURE_AGGREGATION"),
    ],
)
def test_a_job_that_nobody_checked_is_refused_by_the_server(config: Any, words: str, tmp_path: Path) -> None:
    """`flwr run` asks no `flip-fl check`: what cannot work is refused where it would be run."""
    app = write_app(tmp_path / "app", **{"SECURE_AGGREGATION": True, **config})
    with pytest.raises(RunFailed, match=f"{words} is "):
        run(house_strategy, direct_grid(3), context(), app_dir=app, model_id=uuid4())


def test_the_range_of_the_app_is_the_strategy_s(tmp_path: Path) -> None:
    """Site and server decode with the same step, that of config.json."""
    app = write_app(tmp_path / "app", SECURE_AGGREGATION=True, SECURE_AGGREGATION_RANGE=8)
    made = house_strategy(load_config(app))
    assert isinstance(made, SecureAverage)
    assert made.reach == 8.0


@pytest.mark.parametrize("kind", [QUERY_KEYS, QUERY_SEAL, QUERY_TELL, "train"])
def test_a_flower_package_has_no_part_in_it(kind: str, tmp_path: Path) -> None:
    """A package is given its node's state: no secret is put there for it, and its plain update does not leave."""
    package = write_package(tmp_path / "package", SECURE_AGGREGATION=True) / "app"
    at = at_node()
    reply = ask(client_app(package), task_message(kind), at)
    assert reply.has_error()
    words = "the update is not sent" if kind == "train" else "SECURE_AGGREGATION is true; it must be absent"
    failure = get_report(reply).failure
    assert failure is not None
    assert words in failure.text
    assert not at.state
