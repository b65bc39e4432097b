"""What a run of a cell gave, as plain facts: in a process of its own, within a time."""

from __future__ import annotations

import dataclasses
import shutil
import signal
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tests.truth.cells import Cell
from tests.truth.run_cell import problems, run_cell

# No run takes nearly as long: one that does stays RUNNING.
TIMEOUT_S = 600


def outcome(cell: Cell) -> dict[str, Any]:
    """Run one cell: how it ended, and what is wrong with that. What is wrong keeps its folder."""
    home = Path(tempfile.mkdtemp(prefix=f"truth-{cell.name}-"))
    begun = time.monotonic()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(TIMEOUT_S)
    try:
        ended = run_cell(cell, home)
    except (Exception, KeyboardInterrupt) as error:
        seconds = round(time.monotonic() - begun, 1)
        return {"problems": [f"{type(error).__name__}: {error} ({home})"], "seconds": seconds}
    finally:
        signal.alarm(0)
    found = problems(cell, ended)
    if found:
        found.append(str(home))
    else:
        shutil.rmtree(home)
    return {**dataclasses.asdict(ended), "problems": found}


def _too_long(_signal: int, _frame: FrameType | None) -> None:
    raise TimeoutError(f"the run did not end within {TIMEOUT_S} s")
