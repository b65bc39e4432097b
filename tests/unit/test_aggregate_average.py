"""The aggregation: exact, in slot order, and closed to updates that are not the model's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flip_fl.aggregate.average import Update, check_update, weighted_average
from flip_fl.aggregate.best import BestModel, Score, federated_metrics


def update(slot: str, value: Any, examples: Any = 1, dtype: str = "float32") -> Update:
    return Update(slot, {"w": np.array(value, dtype=dtype)}, examples)


def test_sites_count_by_their_examples() -> None:
    """The site with three times the patients has three times the say."""
    averaged = weighted_average([update("Trust_1", [0.0, 4.0], 3), update("Trust_2", [4.0, 0.0], 1)])
    np.testing.assert_array_equal(averaged["w"], np.array([1.0, 3.0], dtype=np.float32))
    assert averaged["w"].dtype == np.float32


def test_weights_by_slot_replace_the_examples() -> None:
    """AGGREGATION_WEIGHTS says it all: the number of examples does not count beside it."""
    updates = [update("Trust_1", [0.0], 1000), update("Trust_2", [4.0], 1)]
    assert weighted_average(updates, {"Trust_1": 1, "Trust_2": 3, "Trust_9": 5})["w"] == [3.0]
    assert weighted_average(updates, {"Trust_1": 0, "Trust_2": 2})["w"] == [4.0]


def test_the_order_of_arrival_does_not_matter() -> None:
    """Replies come in any order; the result is the same to the last bit."""
    generator = np.random.default_rng(0)
    updates = [
        update(f"Trust_{n}", generator.normal(size=1000) * 10.0 ** generator.integers(-6, 6), n) for n in range(1, 13)
    ]
    reference = weighted_average(updates)["w"]
    for seed in range(5):
        shuffled = [updates[i] for i in np.random.default_rng(seed).permutation(len(updates))]
        assert weighted_average(shuffled)["w"].tobytes() == reference.tobytes()


def test_sums_are_made_in_float64() -> None:
    """Small weights are not lost beside large ones, as they would be in the sent float32 or float16."""
    updates = [update("Trust_1", [1e8], 1), update("Trust_2", [1.0], 1), update("Trust_3", [-1e8], 1)]
    assert weighted_average(updates)["w"] == np.float32(1 / 3)
    halves = [update(f"Trust_{n}", [60000.0], 1, "float16") for n in range(4)]
    assert weighted_average(halves)["w"].tolist() == [60000.0]


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("int64", (1, 2), 2),
        ("int64", (2**53, 2**53), 2**53),
        ("uint8", (255, 255), 255),
        ("int32", (-3, -4), -4),
        ("bool", (True, False), True),
        ("complex64", (1j, 3j), 2j),
        ("float64", (0.1, 0.1), 0.1),
    ],
)
def test_every_dtype_comes_back_as_it_was_sent(dtype: str, values: tuple[Any, Any], expected: Any) -> None:
    """Counters of batch norm stay whole numbers, and nothing is widened on the way."""
    averaged = weighted_average([update("Trust_1", values[0], 1, dtype), update("Trust_2", values[1], 1, dtype)])
    assert averaged["w"].dtype == np.dtype(dtype)
    assert averaged["w"].shape == ()
    assert averaged["w"] == expected


def test_the_largest_whole_numbers_do_not_wrap() -> None:
    """float64 has no 2**63 - 1: the result stays the largest number below it instead of turning negative."""
    averaged = weighted_average([update("Trust_1", 2**63 - 1, 1, "int64"), update("Trust_2", 2**63 - 1, 1, "int64")])
    assert averaged["w"] > 2**63 - 2000


def test_what_was_sent_is_not_changed() -> None:
    """The updates may still be wanted: for a second look, or for a site's own score."""
    sent = update("Trust_1", [1.0])
    result = weighted_average([sent])
    result["w"] += 1
    assert sent.arrays["w"] == [1.0]


def test_impossible_averages_are_errors() -> None:
    """Nothing, the same site twice, a slot without a weight, and weights of 0 are told apart by name."""
    with pytest.raises(ValueError, match="nothing to average"):
        weighted_average([])
    with pytest.raises(ValueError, match="two updates"):
        weighted_average([update("Trust_1", [1]), update("Trust_1", [2])])
    with pytest.raises(ValueError, match="no weight for Trust_2"):
        weighted_average([update("Trust_1", [1]), update("Trust_2", [1])], {"Trust_1": 1})
    with pytest.raises(ValueError, match="Trust_1 add up to 0"):
        weighted_average([update("Trust_1", [1])], {"Trust_1": 0})


REFERENCE = {"w": np.zeros((2, 3), dtype=np.float32), "n": np.zeros((), dtype=np.int64)}
GOOD = {"w": np.ones((2, 3), dtype=np.float32), "n": np.ones((), dtype=np.int64)}


@pytest.mark.parametrize(
    ("arrays", "examples", "reason"),
    [
        (GOOD, 1, None),
        (GOOD, np.int64(5), None),
        ({**GOOD, "n": np.array(-1)}, 10**8, None),
        (GOOD, 0, "num_examples is 0"),
        (GOOD, -1, "num_examples is -1"),
        (GOOD, 10**8 + 1, "num_examples is"),
        (GOOD, True, "num_examples is a bool"),
        (GOOD, 1.5, "num_examples is a float"),
        (GOOD, None, "num_examples is a NoneType"),
        ({"w": GOOD["w"]}, 1, "1 parameters are missing, the first is 'n'"),
        ({}, 1, "2 parameters are missing, the first is 'w'"),
        ({**GOOD, "x": GOOD["n"]}, 1, "1 parameters are not the model's, the first is 'x'"),
        ({**GOOD, "w": np.ones((3, 2), dtype=np.float32)}, 1, "'w' has the shape (3, 2), the model's is (2, 3)"),
        ({**GOOD, "w": np.ones((2, 3))}, 1, "'w' is float64, the model's is float32"),
        ({**GOOD, "w": np.full((2, 3), np.nan, dtype=np.float32)}, 1, "'w' holds NaN or infinity"),
        ({**GOOD, "w": np.full((2, 3), -np.inf, dtype=np.float32)}, 1, "'w' holds NaN or infinity"),
        ({**GOOD, "w": [[1, 2, 3]] * 2}, 1, "'w' is a list, not an array"),
        ({**GOOD, "w": np.array([[object()] * 3] * 2)}, 1, "'w' is object, the model's is float32"),
    ],
)
def test_an_update_that_is_not_the_model_s_is_rejected_with_its_reason(
    arrays: dict[str, Any], examples: Any, reason: str | None
) -> None:
    """One bad reply is one rejected site with words, not a poisoned model or a dead run."""
    found = check_update(REFERENCE, Update("Trust_1", arrays, examples))
    assert (found is None) == (reason is None)
    if reason is not None:
        assert str(found).startswith(reason)


def scores(*values: tuple[float, int]) -> list[Score]:
    return [Score(f"Trust_{n}", count, {"auc": value}) for n, (value, count) in enumerate(values)]


def test_the_best_round_is_the_first_with_the_highest_mean() -> None:
    """Sites count by their examples; an equal later round does not displace an earlier one."""
    best = BestModel("auc")
    assert best.offer(1, scores((0.5, 1), (0.9, 3)))
    assert best.value == pytest.approx(0.8)
    assert not best.offer(2, scores((0.9, 1), (0.7, 3)))
    assert not best.offer(3, scores((0.5, 1), (0.9, 3)))
    assert best.offer(4, scores((1.0, 1), (0.9, 3)))
    assert best.round == 4


def test_the_lowest_wins_when_it_is_to_be_minimised() -> None:
    """BEST_MODEL_METRIC_MINIMIZE turns the comparison round."""
    best = BestModel("auc", minimize=True)
    assert [best.offer(n, scores((value, 1))) for n, value in enumerate((0.5, 0.6, 0.4))] == [True, False, True]


def test_a_round_that_measured_nothing_is_never_the_best() -> None:
    """NaN, sites without examples and another metric's name count as nothing."""
    best = BestModel("auc")
    assert not best.offer(1, [])
    assert not best.offer(1, scores((float("nan"), 5)))
    assert not best.offer(1, scores((0.9, 0)))
    assert not best.offer(1, [Score("Trust_1", 5, {"loss": 0.1})])
    assert best.unfound == (
        "no round was kept as the best: no site validated auc, the BEST_MODEL_METRIC; there were loss"
    )
    assert best.offer(2, [*scores((0.1, 1)), Score("Trust_9", 5, {"auc": float("nan"), "loss": 1})])
    assert best.value == pytest.approx(0.1)
    assert best.unfound is None


def test_federated_metrics_are_means_over_who_measured_them() -> None:
    """A metric that one site lacks is the mean of the others."""
    found = federated_metrics([Score("Trust_1", 1, {"a": 1.0, "b": 4.0}), Score("Trust_2", 3, {"a": 5.0})])
    assert found == {"a": 4.0, "b": 4.0}
