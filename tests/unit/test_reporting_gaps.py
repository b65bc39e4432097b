"""When reports that never came are told, in which words, and what waits for how long."""

from __future__ import annotations

from typing import Any

import pytest

from flip_fl.reporting.gaps import GRACE_S, HOLD_S, MAX_HELD, MAX_TASKS, Gaps, Missing
from flip_fl.wire import SiteBatch


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gaps(clock: Clock) -> Gaps:
    return Gaps(clock)


TASK = SiteBatch(task="train", round=3)


def part(first: int, end: int, task: SiteBatch = TASK, **more: Any) -> SiteBatch:
    return task.model_copy(update={"first": first, "items": list(range(first, end)), **more})


def test_a_task_whose_result_never_came_is_told_by_the_highest_number_heard(gaps: Gaps, clock: Clock) -> None:
    """A client that died: what it had numbered and sent, less what came, is a known loss, told once."""
    assert gaps.live("Trust_1", part(0, 10)) == list(range(10))
    assert gaps.live("Trust_1", part(22, 30)) == []
    clock.now += HOLD_S
    assert gaps.due().items == [("Trust_1", list(range(22, 30)))]
    gaps.gone("Trust_1")
    assert gaps.due().missing == []
    clock.now += GRACE_S
    (missing,) = gaps.due().missing
    assert missing.words == "12 of Trust_1's reports of train, round 3 never came"
    assert gaps.due().missing == []
    assert gaps.end().missing == []


def test_a_newer_task_of_the_same_site_ends_the_one_before(gaps: Gaps, clock: Clock) -> None:
    """A site works on one task at a time; another site's task says nothing about it."""
    newer = SiteBatch(task="validate", round=3)
    gaps.live("Trust_1", part(5, 10))
    gaps.live("Trust_2", part(0, 5, newer))
    clock.now += 10 * GRACE_S
    assert gaps.due().missing == []
    gaps.live("Trust_1", part(0, 5, newer))
    clock.now += GRACE_S
    assert gaps.due().missing == [Missing("Trust_1", "train", 3, 5)]


def test_a_result_that_overtook_its_last_live_batches_waits_for_them(gaps: Gaps, clock: Clock) -> None:
    """The result says how many there are; where its copy is cut, the live ones may still be under way."""
    gaps.live("Trust_1", part(0, 10))
    assert gaps.result("Trust_1", part(30, 30, made=30)) == []
    clock.now += GRACE_S / 2
    assert gaps.due().missing == []
    # After the end nothing waits for anything.
    assert gaps.live("Trust_1", part(20, 30)) == list(range(20, 30))
    clock.now += GRACE_S / 2
    assert gaps.due().missing == [Missing("Trust_1", "train", 3, 10)]
    # Later still it is not thrown away.
    assert gaps.live("Trust_1", part(10, 20)) == list(range(10, 20))


def test_copies_are_dropped_also_long_after_the_end(gaps: Gaps, clock: Clock) -> None:
    """The live batch of a task whose result was stored is no report."""
    assert gaps.result("Trust_1", part(0, 50, made=50)) == list(range(50))
    clock.now += 10 * GRACE_S
    assert gaps.due().missing == []
    assert gaps.live("Trust_1", part(40, 50)) == []
    assert gaps.result("Trust_1", part(0, 50, made=50)) == []


def test_one_hole_delays_only_what_came_before_it_was_given_up(gaps: Gaps, clock: Clock) -> None:
    """After a lost batch the later ones are live again, not each of them late."""
    gaps.live("Trust_1", part(10, 20))
    clock.now += HOLD_S
    assert gaps.due().items
    assert gaps.live("Trust_1", part(20, 30)) == list(range(20, 30))
    assert gaps.live("Trust_1", part(0, 10)) == list(range(10))


def test_what_waits_is_bounded(gaps: Gaps) -> None:
    """A site whose first batch was lost cannot fill the server's memory."""
    assert gaps.live("Trust_1", part(1, MAX_HELD)) == []
    assert gaps.live("Trust_1", part(MAX_HELD, MAX_HELD + 10)) == list(range(1, MAX_HELD + 10))


def test_tasks_are_bounded_and_the_forgotten_ones_told(gaps: Gaps) -> None:
    """However many tasks there are, what was missing of the oldest is said before it is forgotten."""
    gaps.live("Trust_0", part(0, 1))
    gaps.live("Trust_0", part(5, 6))
    for number in range(MAX_TASKS):
        gaps.live(f"Trust_{number + 1}", part(0, 1))
    due = gaps.due()
    assert due.items == [("Trust_0", [5])]
    assert due.missing == [Missing("Trust_0", "train", 3, 4)]


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        (Missing("Trust_1", "train", 3, 12), "12 of Trust_1's reports of train, round 3 never came"),
        (Missing("Trust_2", "train", 3, 1, "ae"), "1 of Trust_2's reports of train, ae, round 3 never came"),
        (Missing("Trust_2", "evaluate", 0, 2), "2 of Trust_2's reports of evaluate never came"),
    ],
)
def test_words(missing: Missing, words: str) -> None:
    """People are told which site, task, stage and round lost how many."""
    assert missing.words == words
