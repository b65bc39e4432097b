"""A process that reports until it is killed, and says on its standard output what was acknowledged.

Run as a module: for each line on its standard input it forks one such process, prints ``pid <n>``, and after its death
``dead``. Forking spares the imports: a thousand kills then take minutes.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flip_fl import wire
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.records import record_of
from flip_fl.reporting.sender import Pace, Sender
from flip_fl.values import ModelStatus
from tests.support.reporting import MODEL, event, failure, metric, settings, status


class Killable:
    """``start`` a process, ``kill`` it; ``acked`` are the ids that it was told are safe, in order."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.acked: list[str] = []
        self.tried: set[str] = set()
        self._pid = 0

    def start(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write("go\n")
        self._child.stdin.flush()
        self._pid = int(self._next("pid"))
        self._next("ack")

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._next("dead")

    def _next(self, word: str) -> str:
        assert self._child.stdout is not None
        while True:
            line = self._child.stdout.readline()
            assert line, "the process that forks is gone"
            kind, _, rest = line.strip().partition(" ")
            if kind == "ack":
                self.acked += rest.split()
            elif kind == "try":
                self.tried |= set(rest.split())
            if kind == word:
                return rest


@contextmanager
def killable(path: Path, url: str) -> Iterator[Killable]:
    """Processes that report into the outbox ``path`` and send to the hub at ``url``."""
    command = [sys.executable, "-m", "tests.support.killable", str(path), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield Killable(child)
        finally:
            child.kill()


def report(path: Path, url: str) -> None:
    """Report mixed batches for ever. One write a line, so that a kill never leaves half of one."""
    box = Outbox(path)
    Sender(box, HubClient(settings(url)), MODEL, pace=Pace(flush_s=0.01)).start()
    dice = random.Random()
    number = 0
    while True:
        items: list[wire.Item] = []
        for _ in range(dice.choice([1, 1, 1, 5, 40])):
            number += 1
            items.append(dice.choices([metric(number), event(1), failure(str(number))], [8, 1, 1])[0])
        if dice.random() < 0.05:
            items = [status(ModelStatus.RUNNING)]
        names = " ".join(str(item.id) for item in items)
        os.write(1, f"try {names}\n".encode())
        if box.append([record_of(item) for item in items]):
            os.write(1, f"ack {names}\n".encode())


if __name__ == "__main__":
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            report(Path(sys.argv[1]), sys.argv[2])
        os.write(1, f"pid {pid}\n".encode())
        os.waitpid(pid, 0)
        os.write(1, b"dead\n")
