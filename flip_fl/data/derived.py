"""What was computed from images, kept on the trust's disk between epochs, rounds and jobs of a project.

An entry is one file, written under a temporary name, synced and renamed: it is whole or not there. Whatever is wrong
with the cache (a full disk, a torn entry, somebody else in the way) costs the time to compute again, never an item.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

logger = logging.getLogger(__name__)

LOCK_S = 5.0
# After a failed write the disk is left alone for so long.
PAUSE_S = 60.0
# A full cache is emptied down to this share, so that not every further entry has to look for the oldest.
KEPT_SHARE = 0.9
_SUFFIX = ".npz"
_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_KEY = re.compile(r"[0-9a-f]{64}")
# Keeps names of arrays apart from the arguments of numpy's writer.
_PREFIX = "array-"


@dataclass(frozen=True)
class _Entry:
    path: str
    size: int
    used_ns: int


class DerivedCache:
    """Arrays by key in ``folder`` (0700), at most ``max_bytes`` of files; those unused for longest make room.

    Several processes may use one folder at once. It may be pickled, and used after a fork. For keys see
    ``data.identity``. What is not cached, and why, is logged once a process.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._tidied = False
        self._resumes = 0.0
        self._said: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return DerivedCache, (self._folder, self._max_bytes)

    def get(self, key: str) -> dict[str, Array] | None:
        """The arrays of ``key``; None where there are none. A torn entry is removed."""
        import numpy as np

        path = self._path(key)
        try:
            # The file's checksums are compared while it is read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                found = {name.removeprefix(_PREFIX): arrays[name] for name in arrays.files}
        except FileNotFoundError:
            return None
        except Exception as error:
            # An error of the disk may pass; anything else is a file that is not what was written.
            if not isinstance(error, OSError) or error.errno is None:
                with contextlib.suppress(OSError):
                    path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return found

    def put(self, key: str, arrays: Mapping[str, Array]) -> bool:
        """Keep ``arrays`` under ``key``; False where that is not possible."""
        path = self._path(key)
        if time.monotonic() < self._resumes:
            return False
        if any(array.dtype.hasobject for array in arrays.values()):
            return self._refuse("they hold Python objects")
        if sum(array.nbytes for array in arrays.values()) > self._max_bytes:
            return self._refuse("those of one study take more than cache_bytes")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._temporary() as (name, descriptor):
                _write(descriptor, arrays)
                return self._admit(name, path, os.fstat(descriptor).st_size)
        except OSError as error:
            self._resumes = time.monotonic() + PAUSE_S
            # Not the error's own text, which names the file.
            return self._refuse(os.strerror(error.errno) if error.errno else type(error).__name__)

    def _path(self, key: str) -> Path:
        if _KEY.fullmatch(key) is None:
            raise ValueError("a key is a SHA-256 in hexadecimal digits")
        return self._folder / f"{key}{_SUFFIX}"

    def _refuse(self, why: str) -> bool:
        if why not in self._said:
            self._said.add(why)
            logger.warning("derived tensors are not cached: %s", why)
        return False

    # -- room -------------------------------------------------------------------------------------------------

    def _admit(self, temporary: str, path: Path, size: int) -> bool:
        """Give the file its name, when there is room for it, or room can be made."""
        with self._locked() as ledger:
            if ledger is None:
                return self._refuse("another process holds the cache's lock")
            used = _read_number(ledger)
            # What a process that was killed left behind is found by the next one.
            if used is None or not self._tidied or used + size > self._max_bytes:
                used = self._tidy(size)
                self._tidied = True
            if used + size > self._max_bytes:
                return self._refuse("those of one study take more than cache_bytes")
            with contextlib.suppress(FileNotFoundError):
                used -= path.stat().st_size
            os.replace(temporary, path)
            _sync_folder(self._folder)
            os.pwrite(ledger, f"{used + size:020d}".encode(), 0)
            return True

    def _tidy(self, room: int) -> int:
        """Remove what dead writers left, and the oldest entries where ``room`` lacks; how many bytes remain."""
        entries: list[_Entry] = []
        with os.scandir(self._folder) as files:
            for file in files:
                if file.name.startswith(_TEMPORARY):
                    _remove_if_dead(file.path)
                elif file.name.endswith(_SUFFIX):
                    with contextlib.suppress(FileNotFoundError):
                        found = file.stat()
                        entries.append(_Entry(file.path, found.st_size, found.st_mtime_ns))
        used = sum(entry.size for entry in entries)
        if used + room <= self._max_bytes:
            return used
        for entry in sorted(entries, key=lambda entry: entry.used_ns):
            if used + room <= KEPT_SHARE * self._max_bytes:
                break
            with contextlib.suppress(FileNotFoundError):
                os.unlink(entry.path)
            used -= entry.size
        return used

    # -- files ------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[str, int]]:
        """A new file, locked for as long as its writer lives; removed, unless it has got its name by then."""
        name = str(self._folder / f"{_TEMPORARY}{uuid.uuid4().hex}")
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield name, descriptor
        finally:
            with contextlib.suppress(OSError):
                os.unlink(name)
            os.close(descriptor)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int | None]:
        """The lock file, which holds the number of bytes used; None where it was not to be had in time."""
        descriptor = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            held = _lock(descriptor)
            try:
                yield descriptor if held else None
            finally:
                # Said outright: a process forked meanwhile shares the descriptor, and would keep the lock.
                if held:
                    fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)


def _write(descriptor: int, arrays: Mapping[str, Array]) -> None:
    import numpy as np

    named: dict[str, Any] = {f"{_PREFIX}{name}": array for name, array in arrays.items()}
    with open(descriptor, "wb", closefd=False) as file:
        np.savez(file, **named)
        file.flush()
        os.fsync(descriptor)


def _lock(descriptor: int) -> bool:
    ends = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > ends:
                return False
            time.sleep(0.005)


def _remove_if_dead(path: str) -> None:
    """Remove a temporary file whose writer is gone: its lock went with it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.unlink(path)
        finally:
            os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_number(descriptor: int) -> int | None:
    text = os.pread(descriptor, 20, 0)
    return int(text) if text.isdigit() else None
