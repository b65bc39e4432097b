"""How much a guest and all that it started use, looked at from outside: beyond a limit all of it is ended."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

LOOK_S = 0.1


@dataclass(frozen=True)
class Usage:
    """Processes, and bytes of memory that are their own."""

    processes: int
    memory_bytes: int


def usage(pid: int) -> Usage:
    """Of the process and its descendants; whoever is gone meanwhile counts nothing."""
    found, waiting = set[int](), [pid]
    memory = 0
    while waiting:
        each = waiting.pop()
        if each in found:
            continue
        found.add(each)
        memory += _own_memory(each)
        waiting += _children(each)
    return Usage(len(found), memory)


class Watch:
    """Looks at the process ``pid`` until it is closed; ``beyond`` is called, once, with what it found too much."""

    def __init__(self, pid: int, processes: int, memory_bytes: int, beyond: Callable[[str], None]) -> None:
        self._over = threading.Event()
        self._arguments = (pid, processes, memory_bytes, beyond)
        threading.Thread(target=self._look, name="flip-watch", daemon=True).start()

    def close(self) -> None:
        self._over.set()

    def _look(self) -> None:
        pid, processes, memory_bytes, beyond = self._arguments
        while not self._over.wait(LOOK_S):
            now = usage(pid)
            problem = ""
            if now.processes > processes:
                problem = f"it has started more than {processes} processes"
            elif now.memory_bytes > memory_bytes:
                problem = f"it uses more than {memory_bytes >> 20:,} MiB of memory"
            if problem:
                beyond(problem)
                break


def _own_memory(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/status", encoding="ascii") as status:
        return sum(int(line.split()[1]) * 1024 for line in status if line.startswith(("RssAnon:", "RssShmem:")))
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
    return found
