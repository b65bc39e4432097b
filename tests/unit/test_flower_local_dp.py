"""Local differential privacy on Flower: every number is clipped and noised, and nothing switches it off by mistake."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Context, Error, Message, MetricRecord, RecordDict

from flip_fl.app.faults import AppError
from flip_fl.flower.local_dp import local_dp_mod
from flip_fl.flower.private import acting_as
from flip_fl.privacy.gaussian import GaussianRule

SENT = {"w": np.zeros(50_000, np.float32), "scale": np.float32(2.0), "steps": np.int64(7)}


def reply_of(trained: dict[str, Any], config: dict[str, Any], kind: str = "train") -> Message:
    """The reply that leaves a site whose app has made ``trained`` of ``SENT``."""
    context = Context(1, 2, {}, RecordDict(), config)
    with acting_as(run_id=1, node_id=0, task_id=3):
        message = Message(RecordDict({"arrays": record(SENT)}), 2, kind)

        def app(asked: Message, _context: Context) -> Message:
            content = RecordDict({"arrays": record(trained), "metrics": MetricRecord({"num-examples": 3})})
            return Message(content, reply_to=asked)

        return local_dp_mod(message, context, app)


def record(arrays: dict[str, Any]) -> ArrayRecord:
    return ArrayRecord({name: Array(np.asarray(array)) for name, array in arrays.items()})


def test_an_update_is_clipped_and_noised_numbers_without_an_axis_too() -> None:
    """The mechanism covers 0-d arrays, which Flower's own mod leaves as they are: here they are a site's secret."""
    trained = {"w": np.full(50_000, 1.0, np.float32), "scale": np.float32(52.0), "steps": np.int64(99)}
    config = {"dp-clipping-norm": 1.0, "dp-sensitivity": 0.5, "dp-epsilon": 1.0, "dp-delta": 1e-5}
    (leaves,) = reply_of(trained, config).content.array_records.values()
    sigma = 0.5 * math.sqrt(2 * math.log(1.25 / 1e-5))
    noise = leaves["w"].numpy()
    assert leaves["w"].numpy().dtype == np.float32
    assert np.std(noise) == pytest.approx(sigma, rel=0.02)
    scale = leaves["scale"].numpy()
    assert scale.shape == ()
    assert abs(float(scale) - 2.0) < 1.0 + 8 * sigma  # the 50 of the update is gone
    assert int(leaves["steps"].numpy()) == 7  # nothing of the training is in it


def test_the_noise_is_not_the_houses_seed() -> None:
    """The house seeds numpy from what others know; noise that can be computed again protects nobody."""
    made = []
    for _ in range(2):
        np.random.seed(0)
        (leaves,) = reply_of(SENT, {}).content.array_records.values()
        made.append(leaves["w"].numpy())
    assert not np.array_equal(*made)


def test_the_defaults_are_those_of_existing_apps() -> None:
    """An app that sets no key gets the mechanism, with FLIP's values; false is the only way to switch it off."""
    trained = {**SENT, "scale": np.float32(3.0)}
    assert GaussianRule() == GaussianRule(1.0, 1e-4, 10.0, 1e-5)
    assert float(reply_of(trained, {}).content["arrays"]["scale"].numpy()) != 3.0
    assert float(reply_of(trained, {"dp-enabled": False}).content["arrays"]["scale"].numpy()) == 3.0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"dp-epsilon": 0.0}, "epsilon must be a positive number"),
        ({"dp-epsilon": -1.0}, "epsilon must be a positive number"),
        ({"dp-epsilon": float("inf")}, "epsilon must be a positive number"),
        ({"dp-epsilon": "10"}, "epsilon must be a positive number"),
        ({"dp-sensitivity": 0.0}, "sensitivity must be a positive number"),
        ({"dp-clipping-norm": 0}, "clipping_norm must be a positive number"),
        ({"dp-delta": 1.5}, "delta must be below 1"),
        ({"dp-enabled": "false"}, "dp-enabled must be true or false"),
    ],
)
def test_a_setting_that_would_switch_it_off_is_refused(config: dict[str, Any], words: str) -> None:
    """A wrong value fails closed: the app is not even run, and nothing leaves."""
    with pytest.raises(AppError, match=words):
        reply_of(SENT, config)


@pytest.mark.parametrize(
    ("trained", "words"),
    [
        ({**SENT, "scale": np.float32("nan")}, "NaN or infinity"),
        ({"w": SENT["w"]}, "other names"),
        ({**SENT, "w": np.zeros(3, np.float32)}, "another shape"),
        ({**SENT, "scale": np.complex64(1)}, "neither real nor whole"),
    ],
)
def test_an_update_that_cannot_be_clipped_does_not_leave(trained: dict[str, Any], words: str) -> None:
    """What the mechanism cannot bound is held back, with the reason."""
    with pytest.raises(AppError, match=words):
        reply_of(trained, {})


def test_validation_and_errors_pass() -> None:
    """The mod is about updates: an evaluation's reply and a failure are as they were."""
    trained = {**SENT, "scale": np.float32(3.0)}
    assert float(reply_of(trained, {}, "evaluate").content["arrays"]["scale"].numpy()) == 3.0
    with acting_as(run_id=1, node_id=0, task_id=3):
        message = Message(RecordDict({"arrays": record(SENT)}), 2, "train")
        call: Callable[[Message, Context], Message] = lambda asked, _: Message(Error(2, "x"), reply_to=asked)  # noqa: E731
        assert local_dp_mod(message, Context(1, 2, {}, RecordDict(), {}), call).has_error()


def test_it_says_what_it_gives() -> None:
    """Clipping to 1 with a sensitivity of 1e-4 is no epsilon of 10 between any two updates: the words say so."""
    rule = GaussianRule()
    assert rule.epsilon_of_clipped == pytest.approx(200_000)
    assert "epsilon 200000 for any two clipped ones" in rule.words
    assert "proven for an epsilon of at most 1" in rule.words
    assert "proven" not in GaussianRule(epsilon=1.0).words
