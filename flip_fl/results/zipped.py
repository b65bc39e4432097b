"""A zip, produced piece by piece: no second copy on disk, no second copy in memory."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from flip_fl.data.paths import inside

READ_BYTES = 1 << 20
# What these hold is numbers or compressed already: deflating costs minutes and saves nothing.
_STORED_SUFFIXES = frozenset({".pt", ".pth", ".npz", ".npy", ".safetensors", ".ckpt", ".gz", ".zip", ".png", ".jpg"})
_ZIP64_BYTES = 1 << 31


class Drain:
    """A file to write to, emptied by ``take``. It cannot seek, so the archive is written front to back."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> list[bytes]:
        """What was written since the last time."""
        taken, self._pieces = self._pieces, []
        return taken


def opened(drain: Drain) -> zipfile.ZipFile:
    """A new zip that writes to ``drain``."""
    return zipfile.ZipFile(drain, "w", compression=zipfile.ZIP_DEFLATED, compresslevel=6)  # type: ignore[call-overload,no-any-return]


def kind_of(name: str) -> int:
    """How a file of this name lies in a zip: tensors and what is compressed already stored, all else deflated."""
    return zipfile.ZIP_STORED if Path(name).suffix.lower() in _STORED_SUFFIXES else zipfile.ZIP_DEFLATED


def added(archive: zipfile.ZipFile, info: zipfile.ZipInfo, source: IO[bytes], size: int) -> Iterator[bytes]:
    """Add a file of about ``size`` bytes, yielding each piece of it when it was written."""
    # Its size is only known to the archive once it was read: allow for more than 4 GiB from the start.
    with archive.open(info, "w", force_zip64=size >= _ZIP64_BYTES) as out:
        while piece := source.read(READ_BYTES):
            out.write(piece)
            yield piece


def zip_chunks(folder: Path) -> Iterator[bytes]:
    """The bytes of a zip with the contents of ``folder``, all of them, at its root, in the order of their names.

    Symbolic links are stored as what they point to. Raises ``NotADirectoryError`` when there is no such folder, and
    ``FlipError`` E0704 for a link that leads out of it.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder.name} is not a folder")
    drain = Drain()
    with opened(drain) as archive:
        for path in _contents(folder):
            name = path.relative_to(folder).as_posix()
            if path.is_dir():
                archive.writestr(zipfile.ZipInfo(f"{name}/"), b"")
                continue
            info = zipfile.ZipInfo.from_file(path, name, strict_timestamps=False)
            info.compress_type = kind_of(name)
            with path.open("rb") as source:
                for _ in added(archive, info, source, info.file_size):
                    yield from drain.take()
    yield from drain.take()


def size_of(folder: Path) -> int:
    """The bytes of all files below ``folder``; 0 when there is no such folder."""
    return sum(Path(parent, name).lstat().st_size for parent, _, names in os.walk(folder) for name in names)


def _contents(folder: Path) -> Iterator[Path]:
    """Every file, and every folder that holds none, sorted."""
    for parent, folders, files in os.walk(folder):
        folders.sort()
        here = Path(parent)
        for name in sorted([*files, *(name for name in folders if (here / name).is_symlink())]):
            inside(folder, (here / name).relative_to(folder))
            # A link to a folder inside leads to what is stored already; following it could go round in circles.
            if not (here / name).is_dir():
                yield here / name
        if not folders and not files and here != folder:
            yield here
