"""The whole text of an exception, values included: kept in the trust, in a file that only its owner can read."""

from __future__ import annotations

import os
import traceback
from datetime import UTC, datetime
from pathlib import Path

from flip_fl.app.faults import ScriptFailed
from flip_fl.app.raised import whole_text

FILE = "failures.log"
MAX_FILE_BYTES = 4 << 20
MAX_TEXT_CHARS = 64_000


def keep_full_text(state_dir: Path, error: BaseException, where: str) -> Path:
    """Append ``error`` with its traceback to ``<state_dir>/failures.log``; ``where`` says of which task.

    The file never leaves the trust and is not a log that an engine collects. Beyond 4 MiB it becomes
    ``failures.log.1``, which is overwritten. Raises ``OSError`` when the file cannot be written.
    """
    path = state_dir / FILE
    told = error.chain if isinstance(error, ScriptFailed) else ()
    text = (whole_text(told) if told else "".join(traceback.format_exception(error)))[-MAX_TEXT_CHARS:]
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.is_file() and path.stat().st_size > MAX_FILE_BYTES:
        path.replace(path.with_suffix(".log.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as out:
        os.fchmod(descriptor, 0o600)
        out.write(f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {where}\n{text.rstrip()}\n\n")
    return path
