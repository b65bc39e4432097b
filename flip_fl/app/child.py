"""Running the app's code in a process of its own, with an environment that holds no key."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.app.failures import GuestStopped
from flip_fl.app.kept_forks import KeptForkServer
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from flip_fl.app.isolation.server_gate import ServerGate

# What a process needs to find its libraries and its share of the machine; nothing else is handed on.
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "OMP_NUM_THREADS", "SYSTEMROOT")
DEFAULT_TIMEOUT_S = 600.0
# A run that trains for days does not keep a process with torch for the moments in which it is needed.
IDLE_S = 60.0
MAX_ANSWER_BYTES = 64 << 20
# A model's arrays may be made in the order of a set; the interpreter reads this at its start alone.
UNHASHED = {"PYTHONHASHSEED": "0"}
WEIGHTS = "flip_fl.app.weights"
MODULES = ("torch", "flip_fl.app.guest", WEIGHTS)


class ChildDied(Exception):
    """The child ended without an answer; the text says how."""


def run_child(
    command: str,
    request: Mapping[str, Any],
    timeout_s: float = DEFAULT_TIMEOUT_S,
    *,
    gate: Callable[[Path], ServerGate] | None = None,
) -> dict[str, Any]:
    """Run ``main`` of ``flip_fl.app.weights`` with ``command`` and ``request`` in a process of its own; its answer.

    ``gate`` makes the walls that it goes behind first, with a folder of its own that it may write to.
    Raises the ``FlipError`` that the child reports, and ``ChildDied`` when it gives no answer.
    """
    with tempfile.TemporaryDirectory(prefix="flip-app-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.json")
        asked.write_text(json.dumps(request), encoding="utf-8")
        _run(Path(folder), [command, str(asked), str(answered)], timeout_s, gate)
        answer = _answer(answered)
    if "error" in answer:
        raise answered_error(answer) from None
    return answer


def _run(folder: Path, argv: Sequence[str], timeout_s: float, gate: Callable[[Path], ServerGate] | None) -> None:
    """The child, from its start to its end, which is told in ``folder``. Raises ``ChildDied``."""
    environment = {**_environment(), "HOME": str(folder), "TMPDIR": str(folder)}
    beyond: list[str] = []
    with contextlib.ExitStack() as parts:
        way = None if gate is None else parts.enter_context(contextlib.closing(gate(folder)))
        descriptors = [] if way is None else [way.descriptor]
        try:
            child = servers.fork(
                WEIGHTS, [*argv, *range(len(descriptors))], environment, cwd=folder, descriptors=descriptors
            )
        except OSError as error:
            raise ChildDied(f"no process can be started for it ({error.strerror or error})") from None
        parts.enter_context(contextlib.closing(child))

        if way is not None:
            pid = child.pid

            def end(problem: str) -> None:
                beyond.append(problem)
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)

            try:
                way.let_in(pid, end)
            except GuestStopped as stopped:
                raise ChildDied(str(stopped)) from None
        if not child.wait(timeout_s):
            raise ChildDied(f"it did not end within {timeout_s:.0f} s")
        if beyond:
            raise ChildDied(f"its process was ended: {beyond[0]}")
        if child.returncode:
            raise ChildDied(f"its process ended with code {child.returncode} and no answer")


def _answer(file: Path) -> dict[str, Any]:
    try:
        if file.is_symlink() or file.stat().st_size > MAX_ANSWER_BYTES:
            raise ValueError
        answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ChildDied("its process ended without an answer") from None
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
