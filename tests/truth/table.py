"""The truth table for people: cells that end alike on one line, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from tests.truth.cells import Cell, Column, Ending, Engine, Impossible, Row, all_cells

HEAD = ("| what goes wrong | when | ends | reason at the hub | in the bucket |", "| --- | --- | --- | --- | --- |")


def markdown(marks: Mapping[str, str]) -> str:
    """The table. ``marks``: what to add to a cell's moment, by the cell's name (the cells that did not end so)."""
    lines = list(HEAD)
    for row, group in groupby(all_cells(), key=lambda cell: cell.row):
        lines += _row(row, list(group), marks)
    return "\n".join(lines)


def _row(row: Row, members: Sequence[Cell], marks: Mapping[str, str]) -> Iterator[str]:
    endings: dict[Ending | Impossible, list[Cell]] = {}
    for cell in members:
        endings.setdefault(cell.truth, []).append(cell)
    for number, (truth, alike) in enumerate(endings.items()):
        facts = (row.value if number == 0 else "", _when(alike, marks), *_words(truth))
        yield f"| {' | '.join(facts)} |"


def _words(truth: Ending | Impossible) -> tuple[str, str, str]:
    if isinstance(truth, Impossible):
        return "–", f"cannot be: {truth.why}", "–"
    reason = " … ".join(truth.words) or ("–" if truth.status.is_success else "the person's own")
    beside = f"; beside it: {' … '.join(truth.beside)}" if truth.beside else ""
    return f"`{truth.status.value}`", reason + beside, truth.stored.value


def _when(alike: Sequence[Cell], marks: Mapping[str, str]) -> str:
    by_column: dict[Column, list[Cell]] = {}
    for cell in alike:
        by_column.setdefault(cell.column, []).append(cell)
    words = []
    for column, found in by_column.items():
        on = "" if len(found) == len(Engine) else f" ({found[0].engine.value})"
        words.append(column.value + on + "".join(marks.get(cell.name, "") for cell in found))
    return "; ".join(words)
