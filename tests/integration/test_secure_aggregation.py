"""Secure aggregation in whole runs: the plain run's model, and nothing else of a site at the server."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.aggregate.fixed_point import step_of
from flip_fl.simulate.model import RunOptions, RunOutcome
from flip_fl.simulate.run import run
from flip_fl.values import ModelStatus
from tests.support.bundles import bundle_of, weights_of
from tests.support.small_apps import write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

# Batch norm has counters and running statistics; the counter is a whole number and 0-d.
MODELS = """
import torch


def get_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
    )
"""
SECURE: dict[str, Any] = {"SECURE_AGGREGATION": True}
TOGETHER: dict[str, Any] = {
    "job_type": "fed_opt",
    "SERVER_OPTIMIZER": {"name": "sgd", "lr": 0.5, "momentum": 0.9},
    "FEDBN": True,
    "FEDPROX_MU": 0.1,
    "PARAMS_TYPE": "DIFF",
    "AGGREGATE_ONLY_REGEX": r"^[13]\.",
}
ROUNDS = 2


def launch(folder: Path, runtime: str = "in-process", sites: int = 3, **config: Any) -> RunOutcome:
    app = write_app(folder / "app", model_code=MODELS, **{"GLOBAL_ROUNDS": ROUNDS, **config})
    options = RunOptions(app=app, engine="flower", runtime=runtime, sites=sites, out=folder / "run")
    return run(options, lambda _: None)


def assert_same_model(found: RunOutcome, expected: RunOutcome, rounds: int = ROUNDS) -> None:
    """Within half a step for each round, and what a float32 rounds off."""
    assert (found.status, expected.status) == (ModelStatus.RESULTS_UPLOADED,) * 2, (found.reason, expected.reason)
    ours, plain = weights_of(bundle_of(found)), weights_of(bundle_of(expected))
    assert list(ours) == list(plain)
    for name, tensor in plain.items():
        assert ours[name].dtype == tensor.dtype
        # Training carries a difference on: ten times what one round may differ by.
        bound = 10 * rounds * (step_of(1024) + np.finfo(np.float32).eps * float(tensor.abs().max()))
        apart = float((ours[name] - tensor).abs().max())
        assert apart <= (bound if tensor.is_floating_point() else 0), name


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    return launch(tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> RunOutcome:
    return launch(tmp_path_factory.mktemp("secure"), **SECURE)


@pytest.mark.xdist_group("secure-aggregation")
class TestInProcess:
    def test_the_model_is_that_of_the_plain_run(self, plain: RunOutcome, secure: RunOutcome) -> None:
        """The researcher loses nothing by it: weights, running statistics and counters are the plain run's."""
        assert_same_model(secure, plain)

    def test_the_page_says_nothing_of_single_updates(self, plain: RunOutcome, secure: RunOutcome) -> None:
        """Norms and cosines cannot be known any more, so none are told; what sites measure is told as before."""
        assert all(each.updates for each in plain.story.rounds)
        assert not any(each.updates for each in secure.story.rounds)
        names = {plot.label: [series.slot for series in plot.series] for plot in secure.story.plots}
        assert names == {plot.label: [series.slot for series in plot.series] for plot in plain.story.plots}
        assert not secure.story.failures

    def test_no_file_of_the_run_at_the_server_has_a_key(self, secure: RunOutcome) -> None:
        """Neither logs, nor state, nor what the hub keeps hold a private key, as it is or in base64."""
        root = bundle_of(secure).parent.parent
        files = [path for path in root.rglob("*") if path.is_file()]
        assert {"report.html", "hub.sqlite", "server.log"} <= {path.name for path in files}
        begins = b"-----BEGIN PRIVATE KEY-----"
        for path in files:
            content = path.read_bytes()
            assert begins not in content, path
            assert base64.b64encode(begins) not in content, path

    def test_what_it_goes_together_with(self, tmp_path: Path) -> None:
        """Options that the documentation says work: differences, parts of a model, FedBN, a server optimiser."""
        assert_same_model(launch(tmp_path / "a", **SECURE, **TOGETHER), launch(tmp_path / "b", **TOGETHER))

    def test_a_change_beyond_the_range_ends_the_run_by_name(self, tmp_path: Path) -> None:
        """Nothing is clipped: the hub has site and parameters, and no value."""
        grows = "model[3].weight.data[:] = 4242.5"
        outcome = launch(tmp_path, before_return=grows, SECURE_AGGREGATION_RANGE=4, **SECURE)
        assert outcome.status is ModelStatus.ERROR
        reason = str(outcome.reason)
        assert "Trust_1 in train, round 1" in reason
        assert "training has changed numbers by more than 4 (SECURE_AGGREGATION_RANGE) in '3.weight'" in reason
        # With its fraction: a time of day may have the digits.
        assert "4242.5" not in json.dumps(outcome.story.model_dump(mode="json"))

    @pytest.mark.soak
    def test_a_site_that_fails_is_left_behind(self, tmp_path: Path) -> None:
        """Three of four go on; with one fewer the run would end."""
        breaks = "assert site.name != 'Trust_4' or site.round != 2"
        going = {"IGNORE_RESULT_ERROR": True, "MIN_CLIENTS": 3}
        outcome = launch(tmp_path, sites=4, in_train=breaks, **SECURE, **going)
        assert outcome.status is ModelStatus.RESULTS_UPLOADED, outcome.reason
        assert [row.slots for row in outcome.story.failures] == [["Trust_4"]]


@pytest.mark.timeout(900)
@pytest.mark.soak
@pytest.mark.xdist_group("simulate_flower")
@pytest.mark.parametrize("runtime", ["ray", "deployment"])
def test_on_flower_s_own_runtimes(runtime: str, plain: RunOutcome, tmp_path: Path) -> None:
    """A SuperLink with SuperNodes, and Ray, keep a site's secrets from message to message: the same model."""
    assert_same_model(launch(tmp_path, runtime, **SECURE), plain)
