"""A script's own process: started in a session of its own, spoken to in frames, and ended with all that it started."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip_fl.app.frames import BadFrame, Head, read_frame, write_frame
from flip_fl.app.tensors import Arrays
from flip_fl.settings import site_environment

CLOSE_WAIT_S = 5.0
# Beyond a model's own size: what a script may send that is no copy of it.
SPARE_BYTES = 64 << 20
# A script that sends faster than it is read waits.
MAX_WAITING = 1_000
WITHHELD, SHOWN = "withheld", "shown"
FILES, ASKS = "files", "asks"
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
# Where other processes' settings lie, the FL server's among them.
_NOT_FOR_SCRIPTS = "FLIP_SETTINGS_DIR"


@dataclass(frozen=True)
class Ended:
    """Nothing more comes; ``problem`` is why what came last could not be read."""

    problem: str | None = None


Said = tuple[Head, Arrays] | Ended


class ScriptProcess:
    """``python -m MODULE DESCRIPTOR OUTPUT …`` in ``folder``, until ``close`` or ``kill``. Not for several threads.

    Its environment holds no key; what it prints goes nowhere unless ``show_output``.
    """

    def __init__(self, module: str, arguments: Sequence[str], folder: Path, *, show_output: bool = False) -> None:
        self._channel, theirs = socket.socketpair()
        output = None if show_output else subprocess.DEVNULL
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, str(theirs.fileno()), SHOWN if show_output else WITHHELD, *arguments],
                cwd=folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self._said: queue.Queue[Said] = queue.Queue(MAX_WAITING)
        self._limit = SPARE_BYTES
        self._writing = threading.Lock()
        self._over = False
        threading.Thread(target=self._listen, name="flip-script", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, head: Mapping[str, Any], arrays: Arrays) -> None:
        """Send without waiting: a process that does not read is found out by what it does not answer."""
        self._limit = SPARE_BYTES + 4 * sum(array.nbytes for array in arrays.values())
        threading.Thread(target=self._write, args=(head, arrays), name="flip-script-task", daemon=True).start()

    def answer(self, head: Mapping[str, Any], arrays: Arrays) -> None:
        """Send an answer, from whatever thread."""
        self._write(head, arrays)

    def next(self, timeout_s: float) -> Said | None:
        """What it said next; None when that was nothing for ``timeout_s``."""
        try:
            return self._said.get(timeout=timeout_s)
        except queue.Empty:
            # A process that it has left behind may hold the channel open.
            return Ended() if self._process.poll() is not None and self._said.empty() else None

    def ending(self) -> str:
        """How the process ended, in words; it is killed when it has only closed its channel."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        code = self._process.poll()
        self.kill()
        if code is None:
            return "it closed its channel"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Say that the job is over, give it some seconds, and end what is left."""
        if not self._over and self._process.poll() is None:
            self.tell({"kind": "end"}, {})
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_WAIT_S)
        self.kill()

    def kill(self) -> None:
        """End it, and all that it started."""
        if self._over:
            return
        self._over = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()

    def _write(self, head: Mapping[str, Any], arrays: Arrays) -> None:
        with self._writing, contextlib.suppress(OSError):
            write_frame(self._channel, head, arrays)

    def _listen(self) -> None:
        ended = Ended()
        try:
            while (frame := read_frame(self._channel, lambda: self._limit)) is not None:
                if not self._put(frame):
                    return
        except BadFrame as problem:
            ended = Ended(str(problem))
        except (OSError, ValueError, MemoryError) as error:
            ended = Ended(None if self._over else type(error).__name__)
        self._put(ended)

    def _put(self, said: Said) -> bool:
        """Queue it, waiting while the queue is full; False when nobody will ever look."""
        while not self._over:
            with contextlib.suppress(queue.Full):
                self._said.put(said, timeout=0.2)
                return True
        return False


def _environment() -> dict[str, str]:
    kept = site_environment(os.environ)
    kept.pop(_NOT_FOR_SCRIPTS, None)
    path = [_PACKAGE_ROOT, *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(path), "PYTHONDONTWRITEBYTECODE": "1"}
