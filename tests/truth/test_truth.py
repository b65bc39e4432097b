"""How every run ends: real runs, one thing going wrong at one moment, on both engines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from flip_fl.app.checks import SUPPORTED_JOB_TYPES
from flip_fl.values import ModelStatus
from tests.truth.cells import Cell, Column, Ending, Engine, Impossible, Row, Stored, all_cells, cells, pairwise, way
from tests.truth.run_cell import problems, run_cell

# What `make test` runs; `make truth-table` and `make soak` run every cell.
DAILY = 16
RUN = {column for column in Column if column.job_type in SUPPORTED_JOB_TYPES}


def _parameters() -> Iterator[object]:
    daily = pairwise(cells(), DAILY)
    for cell in cells():
        yield pytest.param(cell, id=cell.name, marks=[] if cell in daily else [pytest.mark.soak])


@pytest.mark.slow
@pytest.mark.timeout(280)
@pytest.mark.parametrize("cell", _parameters())
def test_the_run_ends_as_the_table_says(cell: Cell, tmp_path: Path) -> None:
    """Its status, the reason at the hub and what is in the bucket; it ends once, and leaves nothing running."""
    ended = run_cell(cell, tmp_path)
    assert problems(cell, ended) == []


def test_no_truth_is_a_success_without_results_and_none_is_without_an_end() -> None:
    """The table itself keeps its two promises, whatever is written into it."""
    for cell in cells():
        ending = cell.ending
        assert ending.status.is_terminal
        assert (ending.stored is not Stored.NOTHING) or ending.status is not ModelStatus.RESULTS_UPLOADED
        assert ending.words or ending.status.is_success or cell.column is Column.CLEANUP


def test_a_cell_that_cannot_be_says_why() -> None:
    """Nothing of the table is left out without a reason; a row and a column always have cells."""
    for cell in all_cells():
        truth = cell.truth
        assert isinstance(truth, Ending) or (isinstance(truth, Impossible) and truth.why)
    assert {cell.row for cell in cells()} == set(Row)
    assert {(cell.column, cell.engine) for cell in cells()} == {(c, e) for c in RUN for e in Engine}


def test_the_daily_cells_are_few_and_meet_every_row_and_column_on_every_way() -> None:
    """At most 16, the same every time: each row on both engines, each column, and no way through the code twice."""
    daily = pairwise(cells(), DAILY)
    assert daily == pairwise(cells(), DAILY)
    assert len(daily) <= DAILY
    assert {(cell.row, cell.engine) for cell in daily} == {(row, engine) for row in Row for engine in Engine}
    assert {cell.column for cell in daily} == RUN
    ways = [(cell.row, way(cell)) for cell in daily]
    assert len(set(ways)) == len(ways)
