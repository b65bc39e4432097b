"""Running the app's code in a process of its own, with an environment that holds no key."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_fl.errors import FlipError

# What a process needs to find its libraries and its share of the machine; nothing else is handed on.
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "OMP_NUM_THREADS", "SYSTEMROOT")
DEFAULT_TIMEOUT_S = 600.0


class ChildDied(Exception):
    """The child ended without an answer; the text says how."""


def run_child(command: str, request: Mapping[str, Any], timeout_s: float = DEFAULT_TIMEOUT_S) -> dict[str, Any]:
    """Run ``python -m flip_fl.app.weights COMMAND`` with ``request``; its answer.

    Raises the ``FlipError`` that the child reports, and ``ChildDied`` when it gives no answer.
    """
    with tempfile.TemporaryDirectory(prefix="flip-app-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        argv = [sys.executable, "-P", "-m", "flip_fl.app.weights", command, str(asked), str(answered)]
        try:
            done = subprocess.run(
                argv,
                env=_environment(folder),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise ChildDied(f"it did not end within {timeout_s:.0f} s") from None
        try:
            answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ChildDied(f"its process ended with code {done.returncode} and no answer") from None
    if "error" in answer:
        error = answer["error"]
        raise FlipError(
            error["code"], where=error["where"], why=error["why"], fix=error["fix"], **error["facts"]
        ) from None
    return answer


def error_answer(error: FlipError) -> dict[str, Any]:
    """``error`` as the child writes it, for ``run_child`` to raise again."""
    facts = {name: value if isinstance(value, int | float) else str(value) for name, value in error.facts.items()}
    return {
        "error": {"code": error.code, "where": error.where, "why": error.why, "fix": error.fix, "facts": facts},
    }


def _environment(home: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    package_root = str(Path(__file__).resolve().parents[2])
    return {
        **kept,
        "PYTHONPATH": package_root,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        # The server has no use for a GPU, and what is measured there is measured on the CPU.
        "CUDA_VISIBLE_DEVICES": "",
        "HOME": home,
        "TMPDIR": home,
    }
