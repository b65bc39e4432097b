"""Aligned columns of plain text: no box, no wrap, no markup, the same in a terminal and in a pipe."""

from __future__ import annotations

from collections.abc import Sequence

from flip_fl.errors import printable


def number(value: float | None) -> str:
    """A metric's value with four digits after the point; ``-`` where there is none."""
    if value is None:
        return "-"
    return f"{value:.4f}" if abs(value) < 1e6 else f"{value:.4g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> str:
    """Rows below a header, two blanks between columns; columns in ``right`` are set flush right.

    Cells may hold text from a site: control characters are escaped and long ones cut.
    """
    cells = [[printable(cell) for cell in row] for row in (header, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = []
    for row in cells:
        parts = [
            cell.rjust(w) if i in right else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(parts).rstrip())
    return "\n".join(lines)
