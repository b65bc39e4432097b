"""Locks between processes on one outbox file: who has it open, and who sends from it.

Both are ``flock`` locks on files of their own beside the database: SQLite's own locks live on the database, and
closing any descriptor of a file drops a process's POSIX locks on it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """An advisory lock on ``path``, which is created with mode 0600. Not safe for several threads.

    A forked child inherits the descriptor but must not hold on to the lock when its parent dies: it calls
    ``forget``, which leaves the parent's lock as it is.
    """

    def __init__(self, path: Path, descriptor: int | None = None) -> None:
        """``descriptor``: an open file that holds the lock already, as a child process was given it."""
        self._path = path
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int | None:
        """The open file that holds the lock, for a child process that takes it over; None where it is not held."""
        return self._descriptor

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @property
    def stands(self) -> bool:
        """Whether the lock is held, and on the file that whoever asks for it now would find."""
        return self._descriptor is not None and _still_there(self._descriptor, self._path)

    def acquire(self, *, shared: bool = False, wait: bool = False) -> bool:
        """Take the lock, or turn a held one into the asked kind; False if somebody else is in the way.

        A held lock that cannot be turned is lost.
        """
        mode = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        if self._descriptor is not None:
            return _flock(self._descriptor, mode)
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _flock(descriptor, mode):
                os.close(descriptor)
                return False
            if _still_there(descriptor, self._path):
                self._descriptor = descriptor
                return True
            # Whoever held it has removed the file meanwhile: this is a lock on nothing.
            os.close(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            self.forget()

    def forget(self) -> None:
        """Close the descriptor without unlocking: a process that shares it keeps the lock."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether some process holds ``path`` exclusively, without creating it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(descriptor)


def _flock(descriptor: int, mode: int) -> bool:
    try:
        fcntl.flock(descriptor, mode)
    except BlockingIOError:
        return False
    return True


def _still_there(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
