"""Serving from the command line: say the address once it answers, and end with 0 on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from flip_fl.commands.output import Output


def until_stopped(output: Output, serve: Callable[[Path], None], *, name: str, answers_at: Callable[[str], str]) -> int:
    """Call ``serve`` with the path of a port file; returns the exit code when it was told to end.

    ``answers_at`` words where the service called ``name`` answers, from its port.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        threading.Thread(target=_announce, args=(output, port_file, answers_at), daemon=True).start()
        try:
            serve(port_file)
        except SystemExit:
            # The server ended as it was told to, and raised its signal again for whoever waits on it.
            output.note(f"{name} has ended")
    return 0


def _leave(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _announce(output: Output, port_file: Path, answers_at: Callable[[str], str]) -> None:
    while port_file.parent.is_dir():
        if port_file.is_file():
            return output.note(answers_at(port_file.read_text(encoding="utf-8").strip()))
        time.sleep(0.05)
    return None
