"""Where a command's words go: the answer to stdout, everything else to stderr, and nothing wrapped."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO
from uuid import UUID

if TYPE_CHECKING:
    import click

    from flip_fl.commands.common import Common
    from flip_fl.errors import FlipError


class Output:
    """Writes one command's answer and notes, as ``--json``, ``-q`` and ``--color`` ask."""

    def __init__(self, common: Common) -> None:
        self.common = common

    @classmethod
    def of(cls, context: click.Context) -> Output:
        from flip_fl.commands.common import Common

        return cls(Common.of(context))

    def answer(self, data: object, text: str, *, exit_code: int = 0) -> None:
        """The command's result: ``data`` (a dataclass of ``answers``) under ``--json``, else ``text``."""
        if self.common.json:
            write(sys.stdout, dump(envelope(data, exit_code)))
        elif text:
            write(sys.stdout, text)

    def note(self, text: str) -> None:
        """Something beside the answer, on stderr; silent under ``-q`` and ``--json``."""
        if not self.common.quiet and not self.common.json:
            write(sys.stderr, text)

    def next_step(self, command: str) -> None:
        """The one command to run next, shown to a person at a terminal only."""
        if sys.stdout.isatty():
            self.note(f"next: {command}")

    def error(self, error: FlipError, data: object | None = None) -> None:
        """An error: the envelope on stdout under ``--json`` (with what was found out, if any), else text on stderr."""
        if self.common.json:
            document = error.envelope()
            if data is not None:
                document["data"] = plain(data)
            write(sys.stdout, dump(document))
        else:
            write(sys.stderr, error.text())


def envelope(data: object, exit_code: int = 0) -> dict[str, Any]:
    """``{schema, status, exit_code, data}``; the schema's name is the answer's own."""
    return {"schema": getattr(type(data), "SCHEMA", ""), "status": "ok", "exit_code": exit_code, "data": plain(data)}


def plain(data: object) -> Any:
    """A dataclass, nested as it may be, as what JSON knows."""
    return json.loads(dump(dataclasses.asdict(data))) if dataclasses.is_dataclass(data) else data  # type: ignore[arg-type]


def dump(document: object) -> str:
    return json.dumps(document, indent=2, default=_encode, allow_nan=False, ensure_ascii=False)


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, (Path, UUID)):
        return str(value)
    raise TypeError(type(value).__name__)


def write(stream: TextIO, text: str) -> None:
    """``text`` and a line end, at once. A reader that went away (``| head``) is no error of the command."""
    try:
        stream.write(text if text.endswith("\n") else f"{text}\n")
        stream.flush()
    except BrokenPipeError:
        abandon(stream)


def abandon(stream: TextIO) -> None:
    """Send the rest of ``stream`` nowhere, so that the interpreter's own flush at exit is silent, too."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, stream.fileno())
    finally:
        os.close(null)


def color_wanted(choice: str, stream: TextIO) -> bool:
    """Whether to colour ``stream``: ``--color``, else the environment's conventions, else only at a terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if any(os.environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"
