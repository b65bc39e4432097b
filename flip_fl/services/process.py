"""A service as a process of its own: ``python -m <package> --settings FILE --port N --port-file PATH``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from flip_fl.errors import FlipError


@dataclass(frozen=True)
class ProcessOptions:
    """What the process was started with. ``port`` 0: a free one; ``port_file`` gets it once requests are answered."""

    settings: Path | None
    port: int
    port_file: Path | None


def run(module: str, description: str, serve: Callable[[ProcessOptions], None], arguments: Sequence[str] | None) -> int:
    """Read the command line, call ``serve``, and return the exit code; SIGTERM and SIGINT end with 0."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--settings", type=Path, help="the service's settings file")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--port-file", type=Path, help="gets the port once the service answers")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    try:
        serve(ProcessOptions(given.settings, given.port, given.port_file))
    except FlipError as error:
        print(error.text(), file=sys.stderr)  # noqa: T201 - the answer of a command
        return int(error.exit_code)
    return 0


def leave(_signal: int, _frame: FrameType | None) -> None:
    """A handler that ends the process with 0.

    The server puts its own handlers over this one while it runs and raises the signal again when it has ended.
    """
    raise SystemExit(0)
