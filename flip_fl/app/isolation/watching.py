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


def usage(pid: int, many: int = 1_000, much_bytes: int = 0) -> Usage:
    """Of the process and its descendants; whoever is gone meanwhile counts nothing.

    Beyond ``many`` nobody is counted any more: they may be more each time one looks. What several of them share is
    counted for each, which is quick, unless that comes to more than ``much_bytes``.
    """
    found = _tree(pid, many)
    if len(found) > many:
        return Usage(len(found), 0)
    memory = sum(_read(each, "status", ("RssAnon:", "RssShmem:")) for each in found)
    if memory > much_bytes:
        memory = sum(_read(each, "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:")) for each in found)
    return Usage(len(found), memory)


def processes_of(pid: int, many: int) -> int:
    """How many processes are ``pid`` and its descendants; beyond ``many`` nobody is counted any more."""
    return len(_tree(pid, many))


def _tree(pid: int, many: int) -> set[int]:
    found, waiting = set[int](), [pid]
    while waiting and len(found) <= many:
        each = waiting.pop()
        if each not in found:
            found.add(each)
            waiting += _children(each)
    return found


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
            now = usage(pid, processes, memory_bytes)
            problem = ""
            if now.processes > processes:
                problem = f"it has started more than {processes} processes"
            elif now.memory_bytes > memory_bytes:
                problem = f"it uses more than {memory_bytes >> 20:,} MiB of memory"
            if problem:
                beyond(problem)
                break


def _read(pid: int, file: str, lines: tuple[str, ...]) -> int:
    with contextlib.suppress(OSError, ValueError), open(f"/proc/{pid}/{file}", encoding="ascii") as told:
        return sum(int(line.split()[1]) * 1024 for line in told if line.startswith(lines))
    return 0


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                found += map(int, children.read().split())
    return found
