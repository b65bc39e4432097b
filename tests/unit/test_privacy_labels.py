"""How often each label is among a site's examples: what leaves, and what cannot be worked out from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flip_fl.app.runner import Session
from flip_fl.app.site import SiteSpec
from flip_fl.privacy.counts import CountPolicy
from flip_fl.privacy.egress import Egress, EgressPolicy
from flip_fl.privacy.labels import labels_to_leave, withheld_below
from flip_fl.privacy.policy import SitePolicy
from flip_fl.values import Task
from tests.support.app import TableSource, notes_of, run, write_app

W = "withheld"


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"a": 120, "b": 80}, {"a": 120, "b": 80}),
        ({"a": 120, "b": 9}, {"a": W, "b": W}),
        ({"a": 120, "b": 0}, {"a": W, "b": W}),
        ({"a": 120, "b": 80, "c": 9}, {"a": 120, "b": W, "c": W}),
        ({"a": 120, "b": 80, "c": 0}, {"a": 120, "b": W, "c": W}),
        ({"a": 120, "b": 80, "c": 9, "d": 0}, {"a": 120, "b": W, "c": W, "d": W}),
        ({"a": 3, "b": 0}, {"a": W, "b": W}),
        ({}, {}),
    ],
)
def test_a_small_number_is_withheld_and_cannot_be_worked_out(counts: dict[str, Any], told: dict[str, Any]) -> None:
    """0 reads like 9, and with it the smallest of the others: what is left of all examples is never one small group."""
    assert withheld_below(counts, 10) == told
    left = sum(n for label, n in counts.items() if told[label] == W)
    assert left == 0 or left >= 10 or all(n == W for n in told.values())


def test_what_was_withheld_at_the_site_stays_so_at_the_server() -> None:
    """The server's own threshold is put on what comes: it takes nothing back, and withholds no more than it must."""
    once = withheld_below({"a": 120, "b": 80, "c": 9}, 10)
    assert CountPolicy(threshold=10).labels(once) == once
    assert CountPolicy(threshold=100).labels({"a": 120, "b": 80, "c": 300}) == {"a": W, "b": W, "c": 300}
    assert CountPolicy(told=False).labels(once) == {}
    assert CountPolicy().labels({"patient 4711 0815": 120}) == {}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"1975-03-12": 20, "b": 30}, "have a label that may not leave the trust"),
        ({7: 20}, "have a label that may not leave the trust"),
        ({"a": 20, "b": 0.5}, "are not whole numbers from 0"),
        ({"a": 20, "b": -1}, "are not whole numbers from 0"),
        ({"a": True}, "are not whole numbers from 0"),
        ({"a": 20, "b": 1001}, "are more than the examples"),
        ({f"c{n}": 20 for n in range(51)}, "have more than 50 labels"),
    ],
)
def test_counts_that_may_not_leave_are_told_as_a_sentence(given: dict[Any, Any], why: str) -> None:
    """One that may not leave takes the others along, and what it was is not repeated."""
    egress = Egress("round 1 (train)")
    assert labels_to_leave(given, 10, egress, 1000) == {}
    assert egress.refusals() == [f"the label_counts of round 1 (train) {why}: not stored"]


def test_where_names_are_declared_labels_are_too() -> None:
    """A site that lets declared names leave lets no label leave that the job did not declare."""
    declared = Egress("round 1 (train)", EgressPolicy(declared=frozenset({"loss", "label_counts@a"})))
    assert labels_to_leave({"a": 20}, 10, declared, 1000) == {"a": 20}
    assert labels_to_leave({"a": 20, "b": 30}, 10, declared, 1000) == {}


def test_a_count_has_as_many_digits_as_a_metric() -> None:
    """A site that lets two digits of a number leave lets two of a count leave."""
    egress = Egress("round 1 (train)", EgressPolicy(digits=2))
    assert labels_to_leave({"a": 1234, "b": 87}, 10, egress, 2000) == {"a": 1200, "b": 87}


TRAINER = """
def train(model, site, config):
    return {"num_examples": 129, "loss": 0.5, "label_counts": {"benign": 120, "malignant": 9}}

def validate(model, site, config):
    return {"num_examples": 129, "label_counts": {"benign": 120}}
"""


@pytest.mark.parametrize(("least", "told"), [(None, W), (10, W), (9, 9), (0, 9)])
def test_the_sites_own_policy_says_what_is_small(tmp_path: Path, least: int | None, told: object) -> None:
    """A site with a policy withholds below its min_cohort, one without below 10; nothing of it is a metric."""
    policy = None
    if least is not None:
        policy = SitePolicy.model_validate({"egress": {"min_cohort": least, "require_declared": False}})
    app = write_app(tmp_path / "app", trainer=TRAINER)
    result = run(app, session=Session(app, TableSource(), policy=policy))
    assert result.ok
    assert result.facts is not None
    assert result.facts.labels == {"benign": W if told == W else 120, "malignant": told}
    assert [event["label"] for event in result.events if event["kind"] == "metric"] == ["train_loss"]
    assert notes_of(result) == []
    assert SiteSpec("Trust_1", 1, 1, Task.TRAIN).where() not in str(result.facts)


def test_labels_are_those_of_training(tmp_path: Path) -> None:
    """What validate returns under that name is no metric and is told as such; nothing of it leaves."""
    app = write_app(tmp_path / "app", trainer=TRAINER)
    result = run(app, Task.VALIDATE)
    assert result.facts is not None
    assert result.facts.labels == {}
    assert len(notes_of(result)) == 1
