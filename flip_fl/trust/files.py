"""Files of studies: what lies in a folder, and folders that are opened and written without following a link."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A reader that would wait for a writer (a pipe) is refused instead.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_STALE_S = 3600.0
_BLOCK_BYTES = 1 << 20
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})

# Path below the folder → (size in bytes, time of the last change in ns since 1970).
Listing = Mapping[str, tuple[int, int]]


def listing(folder: str) -> Listing | None:
    """The files below ``folder``, hidden ones left out; None when it is not there.

    Raises ``OSError`` when it cannot be read, and ``ELOOP`` for anything in it that is neither a file nor a folder.
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        _list(folder, "", found)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return None
        raise
    return found


def _list(folder: str, prefix: str, found: dict[str, tuple[int, int]]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            # One call for both: what it is and how large.
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                found[prefix + name] = (status.st_size, status.st_mtime_ns)
            elif stat.S_ISDIR(status.st_mode):
                _list(f"{folder}/{name}", f"{prefix}{name}/", found)
            else:
                raise OSError(errno.ELOOP, "neither a file nor a folder")


def is_folder(path: str) -> bool:
    """Whether a folder, and no link, lies there. Raises ``OSError`` when nobody can say."""
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError as error:
        if error.errno in _NOT_THERE:
            return False
        raise


@contextlib.contextmanager
def opened_folder(path: str | Path, *, below: int | None = None, make: bool = False) -> Iterator[int]:
    """A descriptor of the folder ``path`` (of the opened folder ``below``), made first if asked; never a link's.

    Raises ``OSError``.
    """
    try:
        descriptor = os.open(path, _FOLDER, dir_fd=below)
    except FileNotFoundError:
        if not make:
            raise
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, dir_fd=below)
        descriptor = os.open(path, _FOLDER, dir_fd=below)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def opened_file(folder: int, parts: tuple[str, ...]) -> Iterator[int]:
    """A descriptor of the regular file at ``parts`` below an opened folder; no part is a link. Raises ``OSError``."""
    with contextlib.ExitStack() as stack:
        for part in parts[:-1]:
            folder = stack.enter_context(opened_folder(part, below=folder))
        descriptor = os.open(parts[-1], _FILE, dir_fd=folder)
        stack.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FileNotFoundError(errno.ENOENT, "no regular file")
        yield descriptor


@contextlib.contextmanager
def workspace(partial: Path) -> Iterator[Path]:
    """A folder of its own in ``partial``, for what is not whole yet; gone afterwards. Raises ``OSError``."""
    partial.mkdir(mode=0o700, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=partial))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def draft(partial: Path) -> Iterator[Path]:
    """A folder in ``partial`` that is to be put in place when it is whole; else it is gone afterwards.

    Raises ``OSError``.
    """
    folder = f"{partial}/{secrets.token_hex(16)}"
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        partial.mkdir(mode=0o700, exist_ok=True)
        os.mkdir(folder)
    try:
        yield Path(folder)
    finally:
        if os.path.lexists(folder):
            shutil.rmtree(folder, ignore_errors=True)


def sweep(partial: Path) -> None:
    """Remove what killed processes left in ``partial`` an hour ago or longer."""
    with contextlib.suppress(FileNotFoundError):
        for folder in partial.iterdir():
            with contextlib.suppress(OSError):
                if time.time() - folder.lstat().st_mtime > _STALE_S:
                    shutil.rmtree(folder, ignore_errors=True)


def copy_tree(source: str, target: Path, files: Listing) -> None:
    """Copy ``files`` of ``source`` with their times into an empty folder.

    Real copies: whoever changes one changes nothing else. Raises ``OSError``.
    """
    made = {""}
    for name, (_, mtime_ns) in files.items():
        folder = name.rpartition("/")[0]
        if folder not in made:
            (target / folder).mkdir(parents=True, exist_ok=True)
            made.add(folder)
        _copy_file(f"{source}/{name}", f"{target}/{name}", mtime_ns)


def _copy_file(source: str, target: str, mtime_ns: int) -> None:
    """The standard library's own copy looks at either file several times more, which takes longer than a small one."""
    taken = os.open(source, _FILE)
    try:
        made = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            while block := memoryview(os.read(taken, _BLOCK_BYTES)):
                while block:
                    block = block[os.write(made, block) :]
            os.utime(made, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(made)
    finally:
        os.close(taken)


def put_in_place(fresh: Path, folder: int, name: str) -> None:
    """Rename ``fresh`` to ``name`` in an opened folder, in place of whatever stands there. Raises ``OSError``."""
    with contextlib.ExitStack() as stack:
        for _ in range(_ATTEMPTS):
            try:
                os.rename(fresh, name, dst_dir_fd=folder)
                return
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            # Removed last: until the other one stands there, nothing does.
            aside = stack.enter_context(workspace(fresh.parent))
            with contextlib.suppress(FileNotFoundError):
                os.rename(name, aside / name, src_dir_fd=folder)
    raise OSError(errno.EBUSY, "another process puts folders there")


_ATTEMPTS = 20
