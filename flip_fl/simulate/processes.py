"""Child processes of a simulated run: started in their own group, logged to a file, ended with all they started."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil

from flip_fl.errors import ExitCode, FlipError

TERMINATE_GRACE_S = 5.0
# What ends a process that did not mean to end.
_FATAL = frozenset({signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGTERM})


@dataclass
class Child:
    """One started program. ``stop`` ends it and every process that it started, also those in other groups."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def stop(self, grace_s: float = TERMINATE_GRACE_S) -> int:
        """SIGTERM, then SIGKILL after ``grace_s``; returns the exit code."""
        family = descendants(self.process.pid)
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        kill_all([*family, *_by_pid(self.process.pid)])
        return self.process.wait()


def start(
    name: str, command: Sequence[str], log: Path, *, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> Child:
    """Start ``command`` with its output in ``log`` and no input. Raises ``FlipError`` E0506 when it cannot start."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        try:
            process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if env is None else dict(env),
                start_new_session=True,
            )
        except OSError as error:
            raise FlipError(
                "E0506", problem=f"{name} cannot be started", reason=error.strerror or str(error), log=log
            ) from None
    return Child(name, process, log)


@contextlib.contextmanager
def running(child: Child, grace_s: float = TERMINATE_GRACE_S) -> Iterator[Child]:
    """``child`` until the block ends, however it ends."""
    try:
        yield child
    finally:
        child.stop(grace_s)


def read_port(path: Path) -> int | None:
    """The port that a service has written into ``path``; None before it answers."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def wait_until(child: Child, ready: Callable[[], bool], timeout_s: float, poll_s: float = 0.05) -> None:
    """Wait for ``ready``. Raises ``FlipError`` E0506 when the child ends first or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if not child.running:
            raise FlipError(
                "E0506",
                problem=f"{child.name} ended at its start",
                reason=f"exit code {child.process.returncode}",
                log=child.log,
            )
        if time.monotonic() >= deadline:
            raise FlipError(
                "E0506", problem=f"{child.name} did not start", reason=f"not ready in {timeout_s:.0f} s", log=child.log
            )
        time.sleep(poll_s)


def engine_ending(code: int | None) -> str:
    """How the engine's process, in which the FL server runs, ended without a final status, in words.

    ``code``: its exit code; None: it still runs. NVFLARE's simulator exits with that of the process that it forks for
    the server, so that a signal comes as 256 less its number.
    """
    if code is None:
        return "the engine still runs"
    number = -code if code < 0 else 256 - code
    if code < 0 or number in _FATAL:
        name = signal.Signals(number).name if number in set(signal.Signals) else "unknown"
        return f"the FL server's process was lost: it was killed by signal {number} ({name})"
    return f"the engine ended (exit code {code}) without a final status"


def descendants(pid: int) -> list[psutil.Process]:
    """Every process that ``pid`` started, directly or not."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.Error:
        return []


def kill_all(processes: Sequence[psutil.Process]) -> None:
    """End ``processes`` for good and wait until they are gone."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(list(processes), timeout=TERMINATE_GRACE_S)


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C while the block runs, so that nothing is left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def second_interrupt_leaves() -> Iterator[None]:
    """While the block tidies up after Ctrl-C, another one kills whatever this process has started and ends it."""
    before = signal.signal(signal.SIGINT, _leave_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _leave_at_once(_signal: int, _frame: FrameType | None) -> None:
    kill_all(descendants(os.getpid()))
    os._exit(ExitCode.INTERRUPTED)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def free_ports(count: int) -> list[int]:
    """``count`` different TCP ports of 127.0.0.1 that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _by_pid(pid: int) -> list[psutil.Process]:
    try:
        return [psutil.Process(pid)]
    except psutil.Error:
        return []
