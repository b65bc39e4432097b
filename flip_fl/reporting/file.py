"""The outbox's file as a thing on a disk: opening, modes, locks, corruption, forks, removal."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from flip_fl.errors import FlipError
from flip_fl.reporting.locks import FileLock
from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.schema import SCHEMA_VERSION
from flip_fl.reporting.stats import read_stats
from flip_fl.reporting.store import MEMORY, Store

logger = logging.getLogger("flip_fl.reporting")

_Answer = TypeVar("_Answer")


class OutboxState(StrEnum):
    """Whether reports reach the disk. In the middle three they are kept in memory, bounded, until they do again."""

    OK = "ok"
    DISK_FULL = "disk_full"
    READ_ONLY = "read_only"
    IO_ERROR = "io_error"
    CLOSED = "closed"


class CorruptFileError(sqlite3.DatabaseError):
    """The file is a database, but its pages do not hang together."""


class OutboxFile:
    """``path``, opened when needed, or a database in memory (None). Not safe for several threads.

    Makes the folder with mode 0700 and the file with 0600. While it is open a shared lock keeps others from removing
    it; ``sender`` is the lock of the one who sends from it.
    """

    def __init__(self, path: Path | None, max_rows: int, max_bytes: int) -> None:
        self.path = path
        self.sender = None if path is None else FileLock(beside(path, ".lock"))
        self._use = None if path is None else FileLock(beside(path, ".use"))
        self._caps = {"max_rows": max_rows, "max_bytes": max_bytes}
        self._store: Store | None = None
        self._inode: int | None = None

    def open_checked(self) -> None:
        """Open and read all of the file. Raises ``FlipError`` E0412 where it cannot be used."""
        try:
            self.use(lambda store: _require_sound(store))
        except (OSError, sqlite3.Error) as error:
            raise FlipError("E0412", path=self.path, problem=_problem(error)) from None

    def use(self, action: Callable[[Store], _Answer]) -> _Answer:
        """``action`` on the open store. A corrupt file is set aside, and ``action`` done on a new one."""
        try:
            return action(self._open())
        except sqlite3.DatabaseError as error:
            if not is_corrupt(error) or self.path is None:
                raise
            self._set_aside(self.path)
            return action(self._open())

    def skip_collected(self) -> None:
        """See ``Store.skip_collected``."""
        if self._store is not None:
            self._store.skip_collected()

    def landed(self) -> None:
        """See ``Store.landed``."""
        if self._store is not None:
            self._store.landed()

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file, on a connection of its own: safe beside all else here."""
        if self.path is None:
            return
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0)) as sql:
            sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def close(self) -> None:
        """Close the database; it opens again at the next use. The locks stay."""
        if self._store is not None:
            store, self._store = self._store, None
            with contextlib.suppress(sqlite3.Error):
                store.close()

    def give_up(self, *, remove_if_done: bool = False) -> bool:
        """Close for good. True if the file was removed: the hub has the terminal status and all else, nothing was
        set aside, and no other process has the file open."""
        done = remove_if_done and self.path is not None and _is_done(self.path)
        self.close()
        removed = False
        if done and self.path is not None and self._use is not None and self._use.acquire():
            for suffix in ("", "-wal", "-shm", ".lock", ".use"):
                beside(self.path, suffix).unlink(missing_ok=True)
            removed = True
        for lock in (self.sender, self._use):
            if lock is not None:
                lock.release()
        return removed

    def forget(self) -> None:
        """In a forked child: let go of the parent's locks without unlocking them."""
        for lock in (self.sender, self._use):
            if lock is not None:
                lock.forget()

    def _open(self) -> Store:
        if self._store is not None:
            return self._store
        if self.path is None:
            self._store = Store(MEMORY, **self._caps)
            return self._store
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self._use is not None and not self._use.held:
            self._use.acquire(shared=True, wait=True)
        # SQLite gives its log and index the mode of the database. Never open a file that is there: closing it would
        # drop the locks of every SQLite connection that this process has on it.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        self._inode = self.path.stat().st_ino
        store = Store(self.path, **self._caps)
        if store.version > SCHEMA_VERSION:
            store.close()
            raise FlipError("E0412", path=self.path, problem=f"a newer flip_fl wrote it (version {store.version})")
        self._store = store
        return store

    def _set_aside(self, path: Path) -> None:
        self.close()
        # Another process on this file may have set it aside already: the one there now is sound.
        if not path.exists() or path.stat().st_ino != self._inode:
            return
        mark = f".corrupt-{time.time_ns() // 1_000_000}"
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                beside(path, suffix).rename(beside(path, mark + suffix))
        logger.error("the outbox file was corrupt and is set aside as %s", path.name + mark)
        self._open().lose(LossReason.CORRUPT_FILE, 1)


def beside(path: Path, suffix: str) -> Path:
    """The file that belongs to ``path`` under the same name plus ``suffix``."""
    return path.with_name(path.name + suffix)


def error_name(error: sqlite3.Error) -> str:
    """SQLite's name of what went wrong, such as ``SQLITE_FULL``."""
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


def state_of(error: Exception) -> OutboxState:
    """What a failed write says about the disk."""
    name = error_name(error) if isinstance(error, sqlite3.Error) else errno.errorcode.get(_errno(error), "")
    if name.startswith("SQLITE_FULL") or name in ("ENOSPC", "EDQUOT"):
        return OutboxState.DISK_FULL
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM")) or name in ("EROFS", "EACCES", "EPERM"):
        return OutboxState.READ_ONLY
    return OutboxState.IO_ERROR


def _errno(error: Exception) -> int:
    return (error.errno or 0) if isinstance(error, OSError) else 0


def is_corrupt(error: sqlite3.Error) -> bool:
    return isinstance(error, CorruptFileError) or error_name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _require_sound(store: Store) -> None:
    if not store.sound():
        raise CorruptFileError


def _is_done(path: Path) -> bool:
    stats = read_stats(path)
    return stats.delivered and not (stats.pending or stats.dead or stats.unreported)


def _problem(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return error_name(error) if isinstance(error, sqlite3.Error) else type(error).__name__
