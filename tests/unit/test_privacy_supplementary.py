"""What may leave a site beside single numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flip_fl.privacy.egress import Egress, EgressPolicy
from flip_fl.privacy.supplementary import MAX_NUMBERS, Allowance, NotPlain, Supplements, is_supplementary

WHERE = "round 1 (evaluate, base)"
SECRET = "Smith, John 943 476 5919"


class Odd(list[Any]):
    """Something that raises when it is read."""

    def __iter__(self) -> Any:
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    ("value", "plain"),
    [([1, 2.5], [1, 2.5]), ((True, np.float32(0.5)), [1.0, 0.5]), ({"fpr": [0.0], "t": ()}, {"fpr": [0.0], "t": []}),
     (np.eye(2), [[1.0, 0.0], [0.0, 1.0]]), ([np.array([1, 2])], [[1, 2]]), ([2**70], [float(2**70)])],
)  # fmt: skip
def test_finite_numbers_in_lists_and_dictionaries_leave_as_json(value: Any, plain: Any) -> None:
    """Arrays become lists, counts stay whole, and what leaves is what JSON has."""
    assert is_supplementary(value)
    assert Allowance().plain(value) == plain


@pytest.mark.parametrize(
    ("value", "words"),
    [([float("nan")], "has a value that is not finite"), ({"a": {"b": [1e999]}}, "has a value that is not finite"),
     ([SECRET], "has a value that is no number"), ([None], "has a value that is no number"),
     ({SECRET: 1}, "has a key that may not leave the trust"), ({1: 1}, "has a key that may not leave the trust"),
     ([[[[[1]]]]], "is nested deeper than 4 levels"), ([0] * (MAX_NUMBERS + 1), "takes the task beyond 10000 numbers"),
     (np.zeros(10**6), "takes the task beyond 10000 numbers"), ([[]] * 10_001, "has more than 10000 lists")],
)  # fmt: skip
def test_everything_else_stays(value: Any, words: str) -> None:
    """Texts, odd keys, NaN, depth and bulk: refused with the reason, which repeats nothing of the value."""
    with pytest.raises(NotPlain) as refused:
        Allowance().plain(value)
    assert words in str(refused.value)
    assert "Smith" not in str(refused.value)


def test_the_allowance_is_the_tasks_and_a_refused_value_takes_none_of_it() -> None:
    """Two lists share the 10,000 numbers; one that was refused leaves room for the next."""
    allowance = Allowance()
    allowance.plain([0] * 6_000)
    with pytest.raises(NotPlain):
        allowance.plain([0] * 4_001)
    assert len(allowance.plain([0] * 4_000)) == 4_000  # type: ignore[arg-type]


def test_refusals_are_told_like_those_of_metrics() -> None:
    """A sentence a kind, by name where the name may be shown; undeclared names stay, and nothing is raised."""
    egress = Egress(WHERE, EgressPolicy(declared=frozenset({"roc", "curve"})))
    supplements = Supplements(egress)
    assert supplements.take("roc", {"fpr": [0, 1]}) == {"fpr": [0, 1]}
    for label, value in (("curve", [float("inf")]), ("other", [1]), (SECRET, [1]), ("roc", Odd([1]))):
        assert supplements.take(label, value) is None
    assert egress.refusals() == [
        f"'curve' of {WHERE} has a value that is not finite: not stored",
        f"a metric of {WHERE} has a name that METRICS does not declare: not stored",
        f"a metric of {WHERE} has a name that may not leave the trust: not stored",
        f"'roc' of {WHERE} cannot be read: not stored",
    ]
