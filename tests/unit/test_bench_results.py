"""The benchmark of results on their way to the store: what its figures are called, and when a goal counts as met."""

from __future__ import annotations

import pytest

from tests.benchmarks.results import BARE, DOCUMENTED, OURS, RUNS, Cost, figures

GOOD = {
    DOCUMENTED: [Cost(120.0, 90.0, 110.0, 10.0, 1900.0)],
    BARE: [Cost(10.0, 90.0, 9.0, 10.0, 0.0), Cost(12.0, 90.0, 9.0, 10.0, 0.0)],
    OURS: [Cost(11.0, 92.0, 18.0, 8.0, 0.0, 7.0), Cost(12.0, 95.0, 18.0, 8.0, 0.0, 8.0)],
}
NAMES = [
    "2 GB of checkpoints to S3: streamed, beside make_archive and then upload",
    "2 GB of checkpoints to S3: streamed, beside a bare upload of the same bytes",
    "2 GB of checkpoints to S3: streamed and read back, beside make_archive and then upload",
    "2 GB of checkpoints to S3: peak memory of the uploading process",
    "2 GB of checkpoints to S3: temporary copies on disk",
]


def test_the_figures_have_the_names_by_which_they_are_read() -> None:
    """Whoever compares two versions looks for a figure by its name."""
    found = figures(GOOD)
    assert [figure.name for figure in found] == NAMES
    assert [figure.met for figure in found] == [True] * 5
    assert [(figure.value, figure.rival) for figure in found] == [
        (11.5, 120.0), (11.5, 11.0), (19.0, 120.0), (95.0, 90.0), (0.0, 1900.0),
    ]  # fmt: skip
    assert {*RUNS} == {*GOOD}


@pytest.mark.parametrize(
    ("number", "ours"),
    [
        (0, Cost(41.0, 92.0, 18.0, 8.0, 0.0)),
        (1, Cost(14.0, 92.0, 18.0, 8.0, 0.0)),
        (2, Cost(11.0, 92.0, 18.0, 8.0, 0.0, 30.0)),
        (3, Cost(11.0, 101.0, 18.0, 8.0, 0.0)),
        (4, Cost(11.0, 92.0, 18.0, 8.0, 5.0)),
    ],
)
def test_a_goal_that_is_missed_is_not_met(number: int, ours: Cost) -> None:
    """A figure beyond its goal must not read as a success."""
    assert not figures({**GOOD, OURS: [ours]})[number].met
