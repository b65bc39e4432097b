"""What may leave as a metric, and what is said of the rest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flip_fl.privacy.egress import Egress, EgressPolicy, as_number, sane_name


@pytest.mark.parametrize(
    "name",
    ["loss", "val/dice_left-ventricle", "F1 (macro)", "train_loss", "iou_0.50:0.95", "k" * 64],
)  # fmt: skip
def test_ordinary_names_may_leave(name: str) -> None:
    """Names as trainers write them pass."""
    assert sane_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        " loss",
        "1loss",
        "k" * 65,
        "loss\n",
        "loss\x1b[31m",
        "<b>loss</b>",
        "patient 943 476 5919",
        "born 1931-07-14",
        "ACC98817",
        "dice_ACC0098817263",
        "Žižková",
        "a@b",
        '{"name": "x"}',
        None,
        7,
        b"loss",
    ],
)
def test_what_looks_like_data_may_not(name: Any) -> None:
    """Numbers of patients and studies, dates, markup, control characters and other types are refused."""
    assert not sane_name(name)


def test_a_refusal_never_repeats_a_name_that_may_not_leave() -> None:
    """The sentence is stored at the hub, so it holds neither the bad name nor a bad value."""
    egress = Egress("round 1 (train)")
    assert not egress.number("ACC0098817263", 1.0)
    assert not egress.number("loss", "Zorkmid")
    assert not egress.number("loss", 1.0, x_label="ACC0098817263")
    assert not egress.number("loss", 1.0, x_value=float("nan"))
    assert not egress.number("loss", 1.0, x_value="Zorkmid")
    said = " ".join(egress.refusals())
    assert "98817263" not in said
    assert "Zorkmid" not in said
    assert "metric 'loss' of round 1 (train) has an x_value that is nan: not stored" in egress.refusals()
    assert len(egress.refusals()) == 5


def test_equal_refusals_are_one_line_with_their_count() -> None:
    """A metric that is NaN in every step does not fill the hub's feed."""
    egress = Egress("round 2 (validate)")
    for _ in range(1000):
        egress.number("auc", float("nan"))
    assert egress.refusals() == ["metric 'auc' of round 2 (validate) is nan: not stored (1000 times)"]


def test_many_kinds_of_refusals_are_bounded() -> None:
    """The lines themselves are bounded, and the last one counts the rest."""
    egress = Egress("round 1 (train)", EgressPolicy(max_refusals=3))
    for number in range(10):
        egress.number(f"m{number}", float("nan"))
    assert len(egress.refusals()) == 4
    assert egress.refusals()[-1] == "7 more metrics of round 1 (train) were not stored"


def test_count_and_names_are_bounded() -> None:
    """A whole cohort does not leave as ten thousand points or as a name for each patient."""
    egress = Egress("round 1 (train)", EgressPolicy(max_metrics=5, max_names=2))
    passed = [egress.number(name, 1.0) for name in ("a", "b", "c", "a", "a", "a", "b")]
    assert passed == [True, True, False, True, True, True, False]
    assert egress.refusals() == [
        "round 1 (train) has more than 2 names of metrics: the others are not stored",
        "round 1 (train) has more than 5 metrics: the others are not stored",
    ]


def test_only_declared_names_when_there_are_any() -> None:
    """METRICS is a closed list; what train returns carries its prefix."""
    egress = Egress("round 1 (train)", EgressPolicy(declared=frozenset({"loss"})))
    assert egress.number("loss", 1.0)
    assert egress.number("train_loss", 1.0)
    assert not egress.number("auc", 1.0)


class Hostile:
    """An object whose conversion raises with a value in its text."""

    def __float__(self) -> float:
        raise RuntimeError("Zorkmid")


@pytest.mark.parametrize(
    ("value", "number"),
    [(1, 1.0), (True, 1.0), (np.float32(0.5), 0.5), (np.array(2), 2.0), ("1", None), (b"1", None), (None, None),
     ([1], None), (Hostile(), None), (10**400, None), (1j, None)],
)  # fmt: skip
def test_what_counts_as_a_number(value: Any, number: float | None) -> None:
    """Scalars of the usual libraries; never a text that happens to hold digits."""
    assert as_number(value) == number
