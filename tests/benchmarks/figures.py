"""What a figure is, and the table of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One measured value beside its goal; ``rival`` is the same thing done another way in the same run."""

    name: str
    value: float
    unit: str
    rival: float | None
    goal: str
    met: bool


def table(figures: Sequence[Figure]) -> str:
    """The figures as people read them."""
    rows = [("figure", "value", "rival", "goal", "met")]
    for each in figures:
        rival = "" if each.rival is None else f"{each.rival:.3g} {each.unit}"
        rows.append((each.name, f"{each.value:.3g} {each.unit}", rival, each.goal, "yes" if each.met else "NO"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def write(figures: Sequence[Figure], path: Path) -> None:
    """Write the figures as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(each) for each in figures], indent=2) + "\n", encoding="utf-8")
