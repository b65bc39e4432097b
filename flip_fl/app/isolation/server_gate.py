"""The walls around a process in which an FL server runs researcher code: no patient is there, but its keys are.

A site hands studies to its app, and keeps it from task to task (``walls``); here one process does one thing, with files
that are known before.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from flip_fl.app.failures import GuestStopped
from flip_fl.app.isolation.channel import Channel
from flip_fl.app.isolation.entering import await_entered
from flip_fl.app.isolation.rules import Isolation, rules
from flip_fl.app.isolation.watching import Watch


class ServerGate:
    """One process's way behind the walls of ``wanted``; ``descriptor`` is its end. It may open these places alone.

    What the app may start, and how much memory it may have, is bounded until ``close``.
    """

    def __init__(self, wanted: Isolation, *, read: Sequence[Path], write: Sequence[Path]) -> None:
        self._wanted = wanted
        self._read = tuple(str(path.resolve()) for path in read)
        self._write = tuple(str(path.resolve()) for path in write)
        self._watch: Watch | None = None
        ours, self._theirs = socket.socketpair()
        self._channel = Channel(ours)

    @property
    def descriptor(self) -> int:
        """What the process is given, and passes to ``gate.pass_gate``."""
        return self._theirs.fileno()

    def let_in(self, pid: int, beyond: Callable[[str], None]) -> None:
        """Wait until the process is behind the walls; ``beyond`` is told when it uses too much there.

        Raises ``GuestStopped``.
        """
        self._theirs.close()
        told = rules(self._wanted.level, self._wanted, read=self._read, write=self._write)
        try:
            self._channel.say({"rules": told.told()})
        except OSError:
            raise GuestStopped("the app's process ended before it was isolated") from None
        await_entered(self._channel, pid, self._wanted.level, self._wanted.processes)
        self._watch = Watch(pid, 2 * self._wanted.processes, self._wanted.memory_bytes, beyond)

    def close(self) -> None:
        """The process has ended, or does now."""
        if self._watch is not None:
            self._watch.close()
        self._theirs.close()
        with contextlib.suppress(OSError):
            self._channel.close()
