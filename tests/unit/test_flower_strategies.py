"""Any strategy of Flower's behind our grid and our watcher gives what it gives bare."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp.strategy import (
    Bulyan,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    Strategy,
)

from flip_fl.flower.average import SlotOrderFedAvg
from flip_fl.flower.handling import weight_key
from flip_fl.flower.strategy import as_sent
from flip_fl.reporting.outbox import Outbox
from tests.support.flower import direct_grid, initial, run_observed

SITES = 7
EACH: dict[str, Any] = {"min_train_nodes": SITES, "min_evaluate_nodes": SITES, "min_available_nodes": SITES}


def _adaptive() -> Strategy:
    return DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvg(**EACH), noise_multiplier=0.3, num_sampled_clients=SITES, clipped_count_stddev=0.4
    )


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "FedAvg": lambda: FedAvg(**EACH),
    "FedProx": lambda: FedProx(proximal_mu=0.1, **EACH),
    "FedAvgM": lambda: FedAvgM(server_learning_rate=0.9, server_momentum=0.5, **EACH),
    "FedAdam": lambda: FedAdam(**EACH),
    "FedAdagrad": lambda: FedAdagrad(**EACH),
    "FedYogi": lambda: FedYogi(**EACH),
    "FedMedian": lambda: FedMedian(**EACH),
    "FedTrimmedAvg": lambda: FedTrimmedAvg(beta=0.2, **EACH),
    "Krum": lambda: Krum(num_malicious_nodes=1, **EACH),
    "MultiKrum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=3, **EACH),
    "Bulyan": lambda: Bulyan(num_malicious_nodes=1, **EACH),
    "DP fixed clipping": lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(**EACH), 0.1, 1.0, SITES),
    "DP adaptive clipping": _adaptive,
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)


def as_numpy(arrays: ArrayRecord) -> dict[str, Any]:
    return {name: array.numpy() for name, array in arrays.items()}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_wrapped_strategy_gives_what_it_gives_bare(name: str, tmp_path: Path) -> None:
    """One round is identical to the last bit after the cast to the sent dtypes; three agree to float32's precision."""
    model = initial(buffer=not name.startswith("DP"))
    for rounds in (1, 3):
        np.random.seed(11)
        bare = STRATEGIES[name]().start(direct_grid(SITES), model, num_rounds=rounds)
        np.random.seed(11)
        wrapped = run_observed(STRATEGIES[name](), tmp_path / str(rounds), SITES, rounds, model=model)
        expected, found = as_numpy(as_sent(bare.arrays, model)), as_numpy(wrapped.arrays)
        assert list(found) == list(expected)
        for parameter, array in expected.items():
            assert found[parameter].dtype == array.dtype
            if rounds == 1:
                assert np.array_equal(found[parameter], array), parameter
            else:
                np.testing.assert_allclose(found[parameter], array, rtol=2e-6, atol=2e-6)
        assert wrapped.train_metrics_clientapp[1] == bare.train_metrics_clientapp[1]


def test_the_model_that_travels_keeps_the_dtypes_that_were_sent(tmp_path: Path) -> None:
    """FedAdam alone would send float64 from the second round on: twice the bytes, and other weights on reload."""
    bare = FedAdam(**EACH).start(direct_grid(SITES), initial(), num_rounds=1)
    assert bare.arrays["weight"].dtype == "float64", "Flower has changed: the cast may be needless now"
    wrapped = run_observed(FedAdam(**EACH), tmp_path, SITES, 2)
    assert {name: array.dtype for name, array in wrapped.arrays.items()} == {
        "weight": "float32",
        "scale": "float32",
        "num_batches_tracked": "int64",
    }


def test_our_own_average_is_flowers_up_to_the_last_bits(tmp_path: Path) -> None:
    """The house's aggregator is FedAvg: weighted by examples, here beside Flower's own."""
    ours = as_numpy(run_observed(SlotOrderFedAvg(), tmp_path / "ours", SITES, 2).arrays)
    theirs = as_numpy(run_observed(FedAvg(**EACH), tmp_path / "theirs", SITES, 2).arrays)
    for parameter, array in theirs.items():
        np.testing.assert_allclose(ours[parameter], array, rtol=1e-6, atol=1e-6)


def test_weights_by_slot_replace_the_number_of_examples(tmp_path: Path) -> None:
    """AGGREGATION_WEIGHTS of 1 and 0 give the first site's model."""
    weights = {"Trust_1": 1.0, "Trust_2": 0.0}
    found = run_observed(SlotOrderFedAvg(weights), tmp_path, 2, 1)
    assert found.arrays["num_batches_tracked"].numpy().tolist() == [17]


class OwnLoop(FedAvg):
    """A user's strategy that overrides ``start`` and calls its parent's with ``super()``."""

    finished = False

    def start(self, *args: Any, **kwargs: Any) -> Any:
        result = super().start(*args, **kwargs)
        self.finished = True
        return result


def test_a_strategy_with_a_loop_of_its_own_is_observed_too(tmp_path: Path) -> None:
    """Users override ``start``; their loop runs, our hooks see every round, and their object is as it was."""
    strategy = OwnLoop(**EACH)
    before = set(vars(strategy))
    run_observed(strategy, tmp_path, SITES, 2)
    assert strategy.finished
    assert set(vars(strategy)) - before == {"finished"}
    assert (tmp_path / "run" / "checkpoint.npz").is_file()


def told(folder: Path) -> list[dict[str, Any]]:
    """The details of what was told of the sites' updates, round by round."""
    (path,) = folder.rglob("*.sqlite")
    with contextlib.closing(Outbox(path)) as outbox:
        items = [part.item() for record in outbox.collect(10_000, release=True) for part in record.parts()]
    return [item["details"] for item in items if item.get("event_type") == "UPDATES_COMPARED"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_sites_updates_are_told_once_a_round(name: str, tmp_path: Path) -> None:
    """Before the strategy, which may take them apart, has its turn; and never of one that hides the single site."""
    run_observed(STRATEGIES[name](), tmp_path, SITES, 2, model=initial(buffer=not name.startswith("DP")))
    rounds = told(tmp_path)
    if name.startswith("DP"):
        assert rounds == []
        return
    assert [each["mean"] for each in rounds] == ["weighted"] * 2
    first = rounds[0]["sites"]
    assert list(first) == [f"Trust_{n}" for n in range(1, SITES + 1)]
    for number, facts in enumerate(first.values(), start=1):
        random = np.random.default_rng([number, 1])
        steps = np.concatenate([random.normal(size=12), [random.normal()]]) * 0.1
        assert facts["norm"] == pytest.approx(np.linalg.norm(steps), rel=1e-3)
        assert facts["examples"] == 10 * number
        assert -1 <= facts["cosine"] <= 1


def test_the_weight_is_the_metric_that_the_strategy_names() -> None:
    """The grid must judge the very number by which replies will be weighted, also that of a wrapped strategy."""
    assert weight_key(FedAvg(weighted_by_key="cases")) == "cases"
    wrapped = DifferentialPrivacyServerSideFixedClipping(FedAvg(weighted_by_key="cases"), 0.1, 1.0, SITES)
    assert weight_key(wrapped) == "cases"
    assert weight_key(SlotOrderFedAvg()) == "num-examples"
