"""What an FL server tells of the sites' updates, and what it keeps to itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flip_fl.aggregate.comparison import comparison
from flip_fl.aggregate.differences import difference, restored
from flip_fl.aggregate.heterogeneity import Spread, spread
from flip_fl.privacy.counts import CountPolicy
from flip_fl.wire import MAX_DETAILS_BYTES, details_size

SENT = {"w": np.array([1.0, 1.0], dtype=np.float32), "steps": np.array(4)}


def moved(*by: float) -> dict[str, Any]:
    """A site's model: ``SENT``, with its weights moved."""
    return {"w": SENT["w"] + np.array(by, dtype=np.float32), "steps": np.array(4_000)}


def sites_of(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {slot: facts for part in parts for slot, facts in part["sites"].items()}


def test_norm_and_angle_are_of_the_change_alone() -> None:
    """Not of the weights, and not of counters, which would be larger than all that training has moved."""
    found = spread(SENT, {"Trust_1": moved(3, 4), "Trust_2": moved(3, -4)})
    assert found == {"Trust_1": Spread(5.0, pytest.approx(0.6)), "Trust_2": Spread(5.0, pytest.approx(0.6))}


def test_the_mean_is_weighted() -> None:
    """A site with nearly all of the weight is nearly the mean."""
    found = spread(SENT, {"Trust_1": moved(1, 0), "Trust_2": moved(0, 1)}, {"Trust_1": 99, "Trust_2": 1})
    assert found["Trust_1"].cosine == pytest.approx(99 / np.hypot(99, 1))
    assert found["Trust_2"].cosine == pytest.approx(1 / np.hypot(99, 1))


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ((moved(0, 0), moved(1, 0)), (Spread(0.0, None), Spread(1.0, 1.0))),
        ((moved(0, 0), moved(0, 0)), (Spread(0.0, None), Spread(0.0, None))),
        ((moved(1, 2), moved(-1, -2)), (Spread(pytest.approx(5**0.5), None),) * 2),
        ((moved(0.25, 0.5), moved(0.5, 0.75), moved(-0.75, -1.25)), None),
    ],
    ids=["one stands still", "all stand still", "they cancel out", "three cancel out"],
)
def test_what_has_no_direction_has_no_angle(
    models: tuple[dict[str, Any], ...], expected: tuple[Spread, ...] | None
) -> None:
    """None, where a division would give NaN, which JSON has not, or an angle to a rounding error."""
    found = list(spread(SENT, {f"Trust_{n}": model for n, model in enumerate(models)}).values())
    assert found == list(expected) if expected else [one.cosine for one in found] == [None] * 3


def test_a_model_of_whole_numbers_has_nothing_to_compare() -> None:
    """No norm, which is not the norm 0 of a site that has learnt nothing."""
    assert spread({"n": np.array([1])}, {"Trust_1": {"n": np.array([5])}}) == {"Trust_1": Spread(None, None)}


def test_numbers_beyond_float64_are_no_error() -> None:
    """A model that explodes is told as having no norm; the run has other ways of saying what is wrong."""
    sent = {"w": np.zeros(2)}
    found = spread(sent, {"Trust_1": {"w": np.full(2, 1e308)}, "Trust_2": {"w": np.ones(2)}})
    assert found["Trust_1"].norm is None
    assert found["Trust_2"].norm == pytest.approx(2**0.5)


def test_a_site_that_sent_differences_is_measured_alike() -> None:
    """PARAMS_TYPE is how weights travel: DIFF, put together again, gives what FULL gives."""
    rng = np.random.default_rng(3)
    sent = {"w": rng.normal(size=(40, 5)).astype(np.float32)}
    whole = {f"Trust_{n}": {"w": (sent["w"] + rng.normal(size=(40, 5))).astype(np.float32)} for n in (1, 2)}
    sums = {slot: restored(sent, difference(sent, model)) for slot, model in whole.items()}
    for slot, one in spread(sent, whole).items():
        assert spread(sent, sums)[slot].norm == pytest.approx(one.norm, rel=1e-6)
        assert spread(sent, sums)[slot].cosine == pytest.approx(one.cosine, rel=1e-6)


def test_only_what_travels_is_measured() -> None:
    """Head-only training: what did not come back, or not in its shape, is left out for all; nothing is invented."""
    sent = {"head": np.zeros(2), "body": np.zeros(3)}
    returned = {
        "Trust_1": {"head": np.array([3.0, 4.0]), "body": np.ones(3)},
        "Trust_2": {"head": np.array([0.0, 1.0])},
    }
    assert [one.norm for one in spread(sent, returned).values()] == [5.0, 1.0]


@pytest.mark.parametrize("count", [0, 9])
def test_a_small_count_is_withheld_and_moves_no_other_number(count: int) -> None:
    """The cell of 0 and 9 is the same; the mean is a plain one, since a weighted one would tell the ratio."""
    returned = {"Trust_1": moved(1, 0), "Trust_2": moved(0, 1)}
    (told,) = comparison(SENT, returned, {"Trust_1": 120, "Trust_2": count}, CountPolicy())
    assert told["mean"] == "plain"
    assert told["sites"] == {
        "Trust_1": {"norm": 1.0, "cosine": 0.7071, "examples": 120},
        "Trust_2": {"norm": 1.0, "cosine": 0.7071, "examples": "withheld"},
    }


def test_two_weighted_cosines_would_tell_the_ratio_of_the_counts() -> None:
    """Why the mean is plain then: with both norms they leave two equations for two unknowns."""
    returned = {"Trust_1": moved(3, 0), "Trust_2": moved(1, 2)}
    found = spread(SENT, returned, {"Trust_1": 120, "Trust_2": 9})
    (a, c), (b, d) = ((one.norm, one.cosine) for one in found.values())
    assert a is not None
    assert b is not None
    assert c is not None
    assert d is not None

    def off(share: float) -> float:
        # the inner product that the first cosine asks for, put into the second
        tries = np.linspace(-a * b, a * b, 200_001)
        length = np.sqrt(np.maximum(0, (share * a) ** 2 + 2 * share * (1 - share) * tries + ((1 - share) * b) ** 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            first = np.abs((share * a * a + (1 - share) * tries) / (a * length) - c)
            second = np.abs((share * tries + (1 - share) * b * b) / (b * length) - d)
        return float(np.nanmin(first + second))

    ratios = {count: off(120 / (120 + count)) for count in range(1, 10)}
    assert min(ratios, key=lambda count: ratios[count]) == 9


def test_counts_that_may_not_be_told_are_not_there() -> None:
    """Switched off, no count leaves, and no mean that is weighted by counts."""
    returned = {"Trust_1": moved(1, 0), "Trust_2": moved(0, 1)}
    (told,) = comparison(SENT, returned, {"Trust_1": 120, "Trust_2": 60}, CountPolicy(told=False))
    assert told["mean"] == "plain"
    assert [set(facts) for facts in told["sites"].values()] == [{"norm", "cosine"}] * 2


def test_weights_that_are_no_counts_weigh_the_mean_whatever_is_withheld() -> None:
    """AGGREGATION_WEIGHTS stand in the app's config.json: they tell nothing of anybody."""
    returned = {"Trust_1": moved(1, 0), "Trust_2": moved(0, 1)}
    (told,) = comparison(SENT, returned, {"Trust_1": 3, "Trust_2": 4}, CountPolicy(), {"Trust_1": 1, "Trust_2": 0})
    assert told["mean"] == "weighted"
    assert [facts["cosine"] for facts in told["sites"].values()] == [1.0, 0.0]


def test_many_sites_fit_into_as_many_events_as_they_need() -> None:
    """An event's details are bounded at the hub: 300 sites are told in several, each site once, in natural order."""
    returned = {f"Trust_{n}": moved(n, 1) for n in reversed(range(1, 301))}
    parts = comparison(SENT, returned, dict.fromkeys(returned, 1000), CountPolicy())
    assert len(parts) > 1
    assert all(details_size({**part, "stage": "x" * 64}) <= MAX_DETAILS_BYTES for part in parts)
    assert list(sites_of(parts)) == [f"Trust_{n}" for n in range(1, 301)]


def test_what_cannot_be_compared_ends_no_run() -> None:
    """A model that is none is nobody's reason to stop training."""
    assert comparison({"w": None}, {"Trust_1": {"w": None}}, {}, CountPolicy()) == []
