"""Asking before something is cut off or removed: the name typed at a terminal, ``--yes`` without one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from flip_fl.errors import FlipError

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask; needed where nobody sits at a terminal.")]


def confirm(name: str, consequence: str, command: str, yes: bool) -> None:
    """Let a person type ``name``. Raises ``FlipError`` E0102 when that is something else, or nobody is there."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise FlipError("E0102", problem=f"{consequence}: without a terminal it needs --yes", usage=f"{command} --yes")
    if typer.prompt(f"{consequence}. Type {name!r} to go on", err=True) != name:
        raise FlipError("E0102", problem=f"nothing was changed: that was not {name!r}", usage=f"{command} --yes")
