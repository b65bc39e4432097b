"""The one process that runs a kit on this machine: its lock, and how it is found, started behind and stopped."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

from flip_fl.errors import FlipError
from flip_fl.provision.kit import Kit
from flip_fl.simulate.processes import Child

STATE = "state"
LOCK = "serve.lock"
STOPPED = 0
STOP_TIMEOUT_S = 40.0
# Whoever asks whether the kit runs has the lock for a moment, too.
LOOK_S = 0.5
# What starts in the background writes here; a start that fails does so within the time that it takes to look around.
OUTPUT = "serve.log"
START_TIMEOUT_S = 60.0
SETTLE_S = 3.0


@contextlib.contextmanager
def alone(kit: Kit) -> Iterator[None]:
    """This kit's lock, with this process's id in it. Raises ``FlipError`` E0615 when somebody has it."""
    state = kit.folder / STATE
    state.mkdir(mode=0o700, exist_ok=True)
    with (state / LOCK).open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOOK_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise FlipError("E0615", kit=kit.name, folder=kit.folder) from None
            time.sleep(0.02)
        file.seek(0)
        file.truncate()
        json.dump({"pid": os.getpid(), "since": time.time()}, file)
        file.flush()
        yield


def _running(kit: Kit) -> int | None:
    """The process that runs this kit; None when none does."""
    try:
        with (kit.folder / STATE / LOCK).open("r", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                return int(json.load(file)["pid"])
    except (FileNotFoundError, ValueError):
        pass
    return None


def start_behind(kit: Kit) -> int:
    """Start what runs this kit in the background: 0 it runs, else its exit code, and what it said is said here."""
    log = kit.folder / STATE / OUTPUT
    log.parent.mkdir(mode=0o700, exist_ok=True)
    begun = log.stat().st_size if log.exists() else 0
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "flip_fl.provision.serve", str(kit.folder)],
            cwd=kit.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_TIMEOUT_S
    settled = None
    while process.poll() is None:
        if settled is None and _running(kit) == process.pid:
            settled = time.monotonic() + SETTLE_S
        if time.monotonic() > (settled or deadline):
            tell(f"{kit.name} runs in the background (process {process.pid}); its output is {STATE}/{OUTPUT}")
            return 0
        time.sleep(0.1)
    tell(log.read_bytes()[begun:].decode(errors="replace").rstrip())
    return process.returncode or 1


def status(kit: Kit, more: Callable[[], str | None] = lambda: None) -> int:
    """Say whether this kit runs, and ``more`` of one that does: 0 it does, 1 it does not."""
    pid = _running(kit)
    tell(f"{kit.name} runs (process {pid})" if pid is not None else f"{kit.name} does not run")
    words = more() if pid is not None else None
    if words is not None:
        tell(words)
    return 1 if pid is None else 0


def stop(kit: Kit) -> int:
    """End what runs this kit, and say so: 0 nothing runs any more, 1 it does not end."""
    pid = _running(kit)
    if pid is None:
        tell(f"{kit.name} does not run")
        return 0
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _running(kit) is not None:
        if time.monotonic() > deadline:
            tell(f"{kit.name} still runs (process {pid}) {STOP_TIMEOUT_S:.0f} s after it was told to stop")
            return 1
        time.sleep(0.1)
    tell(f"{kit.name} is stopped")
    return 0


def while_running(child: Child, over: threading.Event) -> int:
    """The exit code when ``child`` has ended, or was ended because it is ``over``."""
    try:
        while not over.wait(0.2):
            if not child.running:
                tell(f"{child.name} has ended; see {child.log}")
                return 1
    finally:
        child.stop()
    return STOPPED


def tell(text: str) -> None:
    """A line for whoever looks at this kit's output."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
