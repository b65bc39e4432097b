"""A script's own process: started in a session of its own, spoken to in frames, and ended with all that it started."""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flip_fl.app.faults import BadFrame
from flip_fl.app.frames import Head, read_frame, write_frame
from flip_fl.app.isolation.channel import Channel
from flip_fl.app.isolation.forking import fork_guest
from flip_fl.app.isolation.walls import Walls
from flip_fl.app.tensors import Arrays

CLOSE_WAIT_S = 5.0
# Beyond a model's own size: what a script may send that is no copy of it.
SPARE_BYTES = 64 << 20
# A script that sends faster than it is read waits.
MAX_WAITING = 1_000
WITHHELD, SHOWN = "withheld", "shown"
FILES, ASKS = "files", "asks"


@dataclass(frozen=True)
class Ended:
    """Nothing more comes; ``problem`` is why what came last could not be read."""

    problem: str | None = None


Said = tuple[Head, Arrays] | Ended


class ScriptProcess:
    """``MODULE DESCRIPTOR GATE OUTPUT …`` behind ``walls``, until ``close`` or ``kill``. Not for several threads.

    Its environment holds no key; what it prints goes nowhere unless ``show_output``. It runs in a copy of the app's
    ``folder``, which it may write to. Raises ``GuestStopped`` where the walls cannot be had.
    """

    def __init__(self, module: str, arguments: Sequence[str], walls: Walls, *, show_output: bool = False) -> None:
        self._channel, theirs = socket.socketpair()
        gate, inner_gate = socket.socketpair()
        self._walls = walls
        self._over = False
        self._problem = ""
        self.folder = walls.copy_of_app()
        self.grant = walls.grant
        inner = [theirs.fileno(), inner_gate.fileno()]
        shown = SHOWN if show_output else WITHHELD
        with theirs, inner_gate:
            self._process = fork_guest(
                walls.home,
                walls.environment,
                inner,
                1 if show_output else None,
                module=module,
                argv=[0, 1, shown, *arguments],
                cwd=self.folder,
            )
        with contextlib.closing(Channel(gate)) as channel:
            try:
                channel.say({"rules": walls.rules.told()})
                walls.entered(channel, self._process.pid)
            except BaseException:
                self.kill()
                raise
        walls.watch(self._process.pid, self._beyond)
        self._said: queue.Queue[Said] = queue.Queue(MAX_WAITING)
        self._limit = SPARE_BYTES
        self._writing = threading.Lock()
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
            return Ended() if self._process.ended() and self._said.empty() else None

    def ending(self) -> str:
        """How the process ended, in words; it is killed when it has only closed its channel."""
        code = self._process.returncode if self._process.wait(1.0) else None
        self.kill()
        if self._problem:
            return self._problem
        if code is None:
            return "it closed its channel"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        """Say that the job is over, give it some seconds, and end what is left."""
        if not self._over and not self._process.ended():
            self.tell({"kind": "end"}, {})
            self._process.wait(CLOSE_WAIT_S)
        self.kill()

    def kill(self) -> None:
        """End it, and all that it started."""
        if self._over:
            return
        self._over = True
        self._process.kill()
        self._process.close()
        with contextlib.suppress(OSError):
            self._channel.shutdown(socket.SHUT_RDWR)
        self._channel.close()
        self._walls.close()

    def _beyond(self, problem: str) -> None:
        self._problem = problem
        self._process.kill()

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
