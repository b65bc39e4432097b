"""A process that keeps a job's images at its site between two tasks, where an engine has a process for each task.

It holds the job's lock, by which others see that the job lives. The job ends, and what only it used is removed, once
nobody has used it for the lease, or the process that starts the tasks is gone, or the keeper is asked to end (SIGTERM);
in each case when none of the job's own processes is at work. A job that ended as it should leaves it nothing to do.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from flip_fl.data.index import ImageIndex, job_lock, lock_file
from flip_fl.data.sources.base import Source
from flip_fl.errors import FlipError
from flip_fl.reporting.locks import FileLock, is_locked

LOOK_EVERY_S = 2.0


def start_keeper(index: ImageIndex, slot: str, lease_s: float) -> None:
    """Start the keeper of the job of ``index`` at the site ``slot``, unless there is one; it outlives this process.

    The process that has started this one is taken for the one that starts the job's tasks. Where no process can be
    started the job goes on without: its images may then be removed between two tasks, and are fetched again.
    """
    if index.folder is None or is_locked(lock_file(index.folder, index.job, "keeper")):
        return
    command = [sys.executable, "-m", "flip_fl.data.keeper", str(index.folder), str(index.root), index.job, slot]
    quiet = subprocess.DEVNULL
    # Taken here, so that the job does not seem to be over if this process ends before the keeper is awake.
    lock = job_lock(index.folder, index.job)
    assert lock.descriptor is not None  # it waits until it has it
    try:
        subprocess.Popen(
            [*command, str(lease_s), str(os.getppid()), str(lock.descriptor)],
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            cwd="/",
            start_new_session=True,
            pass_fds=[lock.descriptor],
        )
    except OSError:
        return
    finally:
        lock.forget()


def main(argv: Sequence[str]) -> int:
    """Keep one job; returns when it is over."""
    folder, root, job, slot, lease_s, starter, descriptor = argv
    alone = FileLock(lock_file(Path(folder), job, "keeper"))
    if not alone.acquire():
        return 0
    asked_to_end, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGTERM, lambda *_: None)
    lock = FileLock(lock_file(Path(folder), job), int(descriptor))
    index = ImageIndex(Path(folder), Path(root), job, watch=lock)
    try:
        _keep(index, slot, float(lease_s), int(starter), asked_to_end)
    finally:
        lock_file(Path(folder), job, "keeper").unlink(missing_ok=True)
        alone.release()
    return 0


def _keep(index: ImageIndex, slot: str, lease_s: float, starter: int, asked_to_end: int) -> None:
    while (used_at := index.used_at()) is not None:
        over = time.time() >= used_at + lease_s or not _lives(starter)
        over = over or bool(select.select([asked_to_end], [], [], 0)[0])
        if over and index.end_if_alone(_source(slot)):
            return
        select.select([] if over else [asked_to_end], [], [], LOOK_EVERY_S)
    index.close()


def _source(slot: str) -> Source | None:
    """The site's source; None where its settings are not to be had any more."""
    from flip_fl.data.sources.opening import open_source

    try:
        return open_source(slot)
    except FlipError:
        return None


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
