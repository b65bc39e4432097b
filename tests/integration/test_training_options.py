"""What a job that trains can ask for, in whole runs on both engines: what travels, how it is combined, what is kept."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flip_fl.aggregate.optimizers import ServerOptimizer, read_optimizer
from flip_fl.app.weights import initial_arrays
from flip_fl.simulate.model import ENGINES, RunOptions, RunOutcome
from flip_fl.simulate.run import run
from tests.support.bundles import bundle_of, weights_of
from tests.support.runs import EITHER_ENGINE, OnEngines
from tests.support.small_apps import write_app

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280), pytest.mark.xdist_group("training-options")]

# Drawn from the generators that the house seeds: the same wherever it must be the same, and nowhere else.
MODELS = """
import torch


def get_model():
    return torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU(), torch.nn.Linear(4, 1)
    )
"""
SEEN = "site.log('batches_seen', float(model[1].num_batches_tracked))"
BACKBONE = ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")

HEAD_ONLY: dict[str, Any] = {
    "AGGREGATE_ONLY_REGEX": r"^3\.",
    "SERVER_CHECKPOINT": "start.pt",
    "PARAMS_TYPE": "DIFF",
    "CROSS_SITE_VALIDATION": True,
    "BEST_MODEL_METRIC": "loss",
    "BEST_MODEL_METRIC_MINIMIZE": True,
    "GLOBAL_ROUNDS": 3,
}
# Each site moves every weight by its own number and the round's: what comes of it can be written out by hand.
FED_OPT: dict[str, Any] = {
    "job_type": "fed_opt",
    "SERVER_OPTIMIZER": {"name": "adam", "lr": 0.1},
    "FEDBN": True,
    "GLOBAL_ROUNDS": 3,
}
MOVES = """
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += float(site.name[-1]) * site.round
        model[1].num_batches_tracked += 1
    return {"num_examples": 10 * int(site.name[-1]), "loss": 1.0}
"""


def runs(app: Path, folder: Path) -> dict[str, RunOutcome]:
    return OnEngines(
        lambda engine: run(RunOptions(app=app, engine=engine, sites=2, out=folder / engine), lambda _: None)
    )


def plot(outcome: RunOutcome, label: str) -> dict[str, list[float | None]]:
    (found,) = [each for each in outcome.story.plots if each.label == label]
    return {series.slot or "": [point.y for point in series.points] for series in found.series}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray[Any, Any]]:
    """The weights of SERVER_CHECKPOINT: a fresh model with another head."""
    app = write_app(tmp_path_factory.mktemp("start") / "app", model_code=MODELS)
    arrays = initial_arrays(app)
    arrays["3.weight"] = np.full_like(arrays["3.weight"], 0.75)
    return arrays


@pytest.fixture(scope="module")
def head_only(
    start: dict[str, np.ndarray[Any, Any]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, RunOutcome]:
    """Head-only training from a checkpoint, sent as differences, with cross-site validation."""
    import torch

    folder = tmp_path_factory.mktemp("head-only")
    app = write_app(folder / "app", model_code=MODELS, **HEAD_ONLY)
    torch.save({name: torch.from_numpy(array) for name, array in start.items()}, app / "start.pt")
    return runs(app, folder)


@pytest.fixture(scope="module")
def fed_opt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunOutcome]:
    """A server optimiser, with the batch-norm layers left at the sites."""
    folder = tmp_path_factory.mktemp("fed-opt")
    app = write_app(folder / "app", model_code=MODELS, in_train=MOVES.strip(), in_validate=SEEN, **FED_OPT)
    return runs(app, folder)


@pytest.fixture(params=EITHER_ENGINE)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class TestHeadOnly:
    def test_only_matching_parameters_travel(self, head_only: dict[str, RunOutcome], engine: str) -> None:
        """What a site sends has the bytes of the head (5 float32), and no more."""
        outcome = head_only[engine]
        assert outcome.exit_code == 0, outcome.reason
        cells = [cell for each in outcome.story.rounds for cell in each.cells]
        assert [cell.size_bytes for cell in cells] == [20] * 6

    def test_the_backbone_stays_bit_identical_and_the_head_learns(
        self, head_only: dict[str, RunOutcome], start: dict[str, np.ndarray[Any, Any]], engine: str
    ) -> None:
        """The stored model has the checkpoint's backbone to the bit, and another head."""
        weights = weights_of(bundle_of(head_only[engine]))
        for name in BACKBONE:
            assert np.array_equal(weights[name].numpy(), start[name]), name
        assert not np.array_equal(weights["3.weight"].numpy(), start["3.weight"])

    def test_training_starts_from_the_checkpoint(self, head_only: dict[str, RunOutcome], engine: str) -> None:
        """One round of small steps from 0.75 stays near it; from a fresh head it would not be there."""
        weights = weights_of(bundle_of(head_only[engine]))
        assert float(np.abs(weights["3.weight"].numpy() - 0.75).max()) < 0.7

    def test_the_best_model_is_that_of_the_round_that_scored_best(
        self, head_only: dict[str, RunOutcome], engine: str
    ) -> None:
        """The loss falls to the last round, which counts too: the best model is the last one."""
        outcome = head_only[engine]
        losses = plot(outcome, "loss")
        assert all(series == sorted(series, reverse=True) for series in losses.values())  # type: ignore[type-var]
        bundle = bundle_of(outcome)
        last, best = weights_of(bundle), weights_of(bundle, "best_FL_global_model.pt")
        assert all(np.array_equal(last[name].numpy(), best[name].numpy()) for name in last)

    def test_every_sites_model_is_scored_at_every_site(self, head_only: dict[str, RunOutcome], engine: str) -> None:
        """cross_val_results.json has the global model and both sites' own, at both sites; no plot has them."""
        outcome = head_only[engine]
        with zipfile.ZipFile(bundle_of(outcome)) as bundle:
            found = json.loads(bundle.read("cross_site_val/cross_val_results.json"))
        models = {"SRV_FL_global_model.pt", "Trust_1", "Trust_2"}
        assert {slot: set(scores) for slot, scores in found.items()} == {"Trust_1": models, "Trust_2": models}
        assert found["Trust_1"]["Trust_1"]["loss"] != found["Trust_2"]["Trust_1"]["loss"]
        assert {slot: len(points) for slot, points in plot(outcome, "loss").items()} == {"Trust_1": 3, "Trust_2": 3}

    @pytest.mark.soak
    def test_the_engines_agree(self, head_only: dict[str, RunOutcome]) -> None:
        """Same app, seed and data: the weights differ by 1e-6 at the most, the cross-site scores too."""
        one, other = (weights_of(bundle_of(outcome)) for outcome in (head_only[engine] for engine in ENGINES))
        assert max(float((one[name] - other[name]).abs().max()) for name in one) <= 1e-6


class TestFedOpt:
    def test_three_rounds_are_the_hand_computed_steps(
        self, fed_opt: dict[str, RunOutcome], engine: str, tmp_path: Path
    ) -> None:
        """Trust_2 has twice the examples: each round's averaged difference is 5/3 of the round's number."""
        outcome = fed_opt[engine]
        assert outcome.exit_code == 0, outcome.reason
        initial = initial_arrays(write_app(tmp_path / "app", model_code=MODELS, **FED_OPT))
        weights = weights_of(bundle_of(outcome))
        moved, m, v = 0.0, 0.0, 0.0
        for number in (1, 2, 3):
            d = (1 * 10 + 2 * 20) / 30 * number
            m, v = 0.9 * m + 0.1 * d, 0.99 * v + 0.01 * d * d
            moved += 0.1 * m / (v**0.5 + 1e-3)
        for name in ("0.weight", "0.bias", "3.weight", "3.bias"):
            assert weights[name].numpy() == pytest.approx(initial[name] + moved, abs=2e-6), name

    def test_batch_norm_layers_stay_at_their_sites(
        self, fed_opt: dict[str, RunOutcome], engine: str, tmp_path: Path
    ) -> None:
        """They do not travel (21 numbers do), last from round to round, and are the initial ones in the bundle."""
        outcome = fed_opt[engine]
        assert {cell.size_bytes for each in outcome.story.rounds for cell in each.cells} == {(12 + 4 + 4 + 1) * 4}
        assert plot(outcome, "batches_seen") == {"Trust_1": [1, 2, 3], "Trust_2": [1, 2, 3]}
        initial = initial_arrays(write_app(tmp_path / "app", model_code=MODELS, **FED_OPT))
        weights = weights_of(bundle_of(outcome))
        for name in BACKBONE[2:]:
            assert np.array_equal(weights[name].numpy(), initial[name]), name

    @pytest.mark.soak
    def test_the_engines_agree(self, fed_opt: dict[str, RunOutcome]) -> None:
        """Same app, seed and data: the weights differ by 1e-6 at the most."""
        one, other = (weights_of(bundle_of(outcome)) for outcome in (fed_opt[engine] for engine in ENGINES))
        assert max(float((one[name] - other[name]).abs().max()) for name in one) <= 1e-6


def test_the_house_optimiser_is_the_one_of_the_run() -> None:
    """The hand computation above is of the defaults that the run uses."""
    spec = ServerOptimizer(read_optimizer(FED_OPT["SERVER_OPTIMIZER"])).spec
    assert (spec.lr, spec.beta1, spec.beta2, spec.tau) == (0.1, 0.9, 0.99, 1e-3)
