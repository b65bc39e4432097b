"""Running the app's code in a process of its own, with an environment that holds no key."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_fl.app.kept_forks import KeptForkServer
from flip_fl.errors import FlipError

# What a process needs to find its libraries and its share of the machine; nothing else is handed on.
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "OMP_NUM_THREADS", "SYSTEMROOT")
DEFAULT_TIMEOUT_S = 600.0
# A run that trains for days does not keep a process with torch for the moments in which it is needed.
IDLE_S = 60.0
# A model's arrays may be made in the order of a set; the interpreter reads this at its start alone.
UNHASHED = {"PYTHONHASHSEED": "0"}
WEIGHTS = "flip_fl.app.weights"
MODULES = ("torch", "flip_fl.app.guest", WEIGHTS)


class ChildDied(Exception):
    """The child ended without an answer; the text says how."""


def run_child(command: str, request: Mapping[str, Any], timeout_s: float = DEFAULT_TIMEOUT_S) -> dict[str, Any]:
    """Run ``main`` of ``flip_fl.app.weights`` with ``command`` and ``request`` in a process of its own; its answer.

    Raises the ``FlipError`` that the child reports, and ``ChildDied`` when it gives no answer.
    """
    with tempfile.TemporaryDirectory(prefix="flip-app-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        environment = {**_environment(), "HOME": folder, "TMPDIR": folder}
        try:
            child = servers.fork(WEIGHTS, [command, str(asked), str(answered)], environment, cwd=Path(folder))
        except OSError as error:
            raise ChildDied(f"no process can be started for it ({error.strerror or error})") from None
        with contextlib.closing(child):
            if not child.wait(timeout_s):
                raise ChildDied(f"it did not end within {timeout_s:.0f} s")
        try:
            answer: dict[str, Any] = json.loads(answered.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise ChildDied(f"its process ended with code {child.returncode} and no answer") from None
    if "error" in answer:
        raise answered_error(answer) from None
    return answer


def answered_error(answer: Mapping[str, Any]) -> FlipError:
    """The error of which ``error_answer`` made ``answer``."""
    told = answer["error"]
    return FlipError(told["code"], where=told["where"], why=told["why"], fix=told["fix"], **told["facts"])


def error_answer(error: FlipError) -> dict[str, Any]:
    """``error`` as the child writes it, for ``run_child`` to raise again."""
    facts = {name: value if isinstance(value, int | float) else str(value) for name, value in error.facts.items()}
    return {
        "error": {"code": error.code, "where": error.where, "why": error.why, "fix": error.fix, "facts": facts},
    }


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    package_root = str(Path(__file__).resolve().parents[2])
    return {
        **kept,
        "PYTHONPATH": package_root,
        "PYTHONDONTWRITEBYTECODE": "1",
        **UNHASHED,
        # The server has no use for a GPU, and what is measured there is measured on the CPU.
        "CUDA_VISIBLE_DEVICES": "",
    }


servers = KeptForkServer(MODULES, _environment, idle_s=IDLE_S)
