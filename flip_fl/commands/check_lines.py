"""Checks as people read them: one line each, with why and fix below where there is something to say."""

from __future__ import annotations

from collections.abc import Sequence

from flip_fl.commands.answers import Check
from flip_fl.errors import printable


def check_lines(checks: Sequence[Check]) -> str:
    """The state, the name and what was seen, in aligned columns; control characters are escaped."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<4}  {check.name.ljust(width)}  {printable(check.what)}")
        for word, value in (("why", check.why), ("fix", check.fix)):
            if value:
                lines.append(f"{'':<4}  {'':<{width}}  {word}: {printable(value)}")
    return "\n".join(lines)
