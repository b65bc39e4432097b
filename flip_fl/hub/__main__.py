"""The hub as a process: ``python -m flip_fl.hub --settings FILE --port N --port-file PATH``."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from flip_fl.errors import FlipError
from flip_fl.hub.server import serve
from flip_fl.settings import HubSettings, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the process; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m flip_fl.hub", description="Serve a FLIP hub on 127.0.0.1.")
    parser.add_argument("--settings", type=Path, help="the hub's settings file (FLIP_HUB_DATABASE_URL=…)")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one")
    parser.add_argument("--port-file", type=Path, help="gets the port once the hub answers")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    try:
        serve(load(HubSettings, options.settings), port=options.port, port_file=options.port_file)
    except FlipError as error:
        print(error.text(), file=sys.stderr)  # noqa: T201 - the answer of a command
        return int(error.exit_code)
    return 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    # The server puts its own handlers over this one while it runs and raises the signal again when it has ended.
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
