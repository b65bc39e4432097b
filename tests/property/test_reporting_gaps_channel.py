"""A channel that loses, doubles and reorders: each report once, in order, and every one that never came counted."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from flip_fl.reporting.gaps import GRACE_S, HOLD_S, Due, Gaps, Missing
from flip_fl.wire import SiteBatch

SLOT = "Trust_1"


def cut(made: int, sizes: list[int]) -> list[tuple[int, int]]:
    """The numbers 0 to ``made`` in batches of ``sizes``, and one of the rest: as (first, end)."""
    parts, first = [], 0
    for size in [*sizes, made]:
        end = min(made, first + size)
        if end > first:
            parts.append((first, end))
        first = end
    return parts


@settings(max_examples=300)
@given(st.data())
def test_each_report_once_and_all_that_never_came_counted(data: st.DataObject) -> None:
    """Whatever the live channel does, with and without the result: stored + missing = made (or heard), none twice."""
    made = data.draw(st.integers(0, 60), "made")
    batches = cut(made, data.draw(st.lists(st.integers(1, 20), max_size=8), "sizes"))
    sent = data.draw(st.lists(st.sampled_from(batches), max_size=12), "arrivals") if batches else []
    result = data.draw(st.sampled_from(["whole", "tail", "cut", "lost"]), "result")
    turn = data.draw(st.integers(0, len(sent)), "when the result comes")
    now = 0.0
    gaps = Gaps(lambda: now)
    task = SiteBatch(task="train", round=3)
    stored: list[int] = []

    def take_result() -> None:
        first = {"whole": 0, "tail": made // 2, "cut": made}.get(result)
        if first is not None:
            update = {"first": first, "made": made, "items": list(range(first, made))}
            stored.extend(gaps.result(SLOT, task.model_copy(update=update)))

    for place, (first, end) in enumerate(sent):
        if place == turn:
            take_result()
        # Long enough to give up waiting for a batch, all in all not for reports of a task that is over.
        now += data.draw(st.sampled_from([0.0, 0.1, HOLD_S]), "pause") if now + HOLD_S < GRACE_S else 0.0
        stored.extend(item for _, items in gaps.due().items for item in items)
        stored.extend(gaps.live(SLOT, task.model_copy(update={"first": first, "items": list(range(first, end))})))
    if turn >= len(sent):
        take_result()
    due = gaps.end()
    stored.extend(item for _, items in due.items for item in items)
    assert len(set(stored)) == len(stored)
    came = {number for first, end in sent for number in range(first, end)}
    if result in ("whole", "tail"):
        came |= set(range(0 if result == "whole" else made // 2, made))
    assert set(stored) == came
    expected = made if result != "lost" else max([0, *(end for _, end in sent)])
    missing = expected - len(came)
    assert due.missing == ([Missing(SLOT, "train", 3, missing)] if missing else [])
    assert gaps.end() == Due()


@settings(max_examples=200)
@given(st.lists(st.integers(1, 20), max_size=8), st.integers(1, 60), st.randoms(use_true_random=False), st.booleans())
def test_whatever_comes_out_of_order_is_put_in_order(
    sizes: list[int], made: int, draw: random.Random, result: bool
) -> None:
    """Batches in any order, within the time that one waits for another, and the result among them: stored = logged."""
    order = cut(made, sizes)
    draw.shuffle(order)
    gaps = Gaps(lambda: 0.0)
    task = SiteBatch(task="train")
    stored: list[int] = []
    for place, (first, end) in enumerate(order):
        if result and place == len(order) // 2:
            everything = task.model_copy(update={"made": made, "items": list(range(made))})
            stored += gaps.result(SLOT, everything)
        stored += gaps.live(SLOT, task.model_copy(update={"first": first, "items": list(range(first, end))}))
    assert stored == list(range(made))
    assert gaps.end() == Due()
