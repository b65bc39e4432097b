"""The smallest parts of a report without script: escaped text, numbers, tables, sections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape

_CONTROL = re.compile("[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def text(value: object) -> str:
    """``value`` as HTML text: markup escaped, control and direction-changing characters shown instead of obeyed."""
    return escape(_CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), str(value)))


def section(title: str, inner: str, *, ident: str = "", more: str = "") -> str:
    """A part of the page under its ``title``; ``ident`` is its place in the address, ``more`` further classes."""
    name, of_head = (f' id="{ident}" aria-labelledby="{ident}-h"', f' id="{ident}-h"') if ident else ("", "")
    head = f'<div class="head"><h2{of_head}>{text(title)}</h2></div>'
    return f'<section{name} class="{" ".join(["card", *more.split()])}">{head}{inner}</section>'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int | None = None, label: str = "") -> str:
    """Rows of markup under heads, numbers in the columns from ``numbers_from`` on; keys scroll one with a ``label``."""

    def cell(tag: str, index: int, inner: str) -> str:
        number_class = ' class="num"' if numbers_from is not None and index >= numbers_from else ""
        return f"<{tag}{number_class}>{inner}</{tag}>"

    head = "".join(cell("th", i, inner) for i, inner in enumerate(heads))
    lines = "".join(f"<tr>{''.join(cell('td', i, inner) for i, inner in enumerate(row))}</tr>" for row in rows)
    named = f' tabindex="0" role="group" aria-label="{text(label)}"' if label else ""
    return f'<div class="scroll"{named}><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def number(value: float | None) -> str:
    """Four significant digits; a dash where there is no number."""
    return "–" if value is None else f"{value:.4g}".replace("-", "−")
