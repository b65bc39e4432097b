"""The hub's benchmarks: when a goal counts as met, and that small ones measure real answers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.benchmarks import hub_read, hub_trusts
from tests.benchmarks.hub_load import SQLITE

SLOW, QUICK = 9.0, 0.01


@pytest.mark.parametrize(("field", "figure"), [("streamed_s", 0), ("long_s", 2), ("wide_s", 3), ("first_s", 4)])
def test_a_goal_that_is_missed_is_said(field: str, figure: int) -> None:
    """A figure beyond its goal must not look as if it were met."""
    good = hub_read.Reading(1.0, 1_000_000, [QUICK] * 3, [QUICK] * 3, [QUICK] * 3)
    assert all(each.met for each in hub_read.figures(SQLITE, hub_read.Effort(), good))
    bad = replace(good, **{field: SLOW if field == "streamed_s" else [SLOW] * 3})
    found = hub_read.figures(SQLITE, hub_read.Effort(), bad)
    assert [number for number, each in enumerate(found) if not each.met] == [figure]


def test_a_small_run_is_made_listed_drawn_and_streamed() -> None:
    """The rows that are made in one statement must be such as the hub reads, each of them counted."""
    effort = hub_read.Effort(sites=3, rounds=4, labels=2, steps=50, plots=2)
    found = hub_read.measure_reading(SQLITE, effort)
    assert (len(found.long_s), len(found.wide_s), len(found.first_s)) == (2, 2, 2)
    assert 0 < found.streamed_s < 60
    assert found.grown_bytes >= 0


def test_a_small_load_is_stored_and_looked_at() -> None:
    """All that every run sends is stored, and what it costs is of this hub."""
    effort = hub_trusts.Effort(runs=2, trusts=3, rounds=2, labels=2, readers=1)
    load = hub_trusts.measure_load(SQLITE, effort)
    assert load.events == 2 * 2 * (1 + 3 * (1 + 2) + 1)
    assert len(load.batches_s) == 2
    assert load.processor_s > 0
    assert load.sent_bytes > 100 * load.events
