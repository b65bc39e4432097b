"""The files of a study's folder: what they are called, how large they are, when they were written."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class StudyFile:
    """One file; ``path`` as text, ``size`` in bytes, ``mtime_ns`` in nanoseconds since 1970."""

    path: str
    size: int
    mtime_ns: int


class OutsideError(Exception):
    """A symbolic link of the folder leads out of where studies may lie. The text names nothing."""


def list_files(folder: Path | str, root: Path | None = None) -> tuple[StudyFile, ...]:
    """Every file below ``folder``, sorted by path; hidden ones, and folders that are links, are left out.

    A link to a file is followed, if that lies below ``root`` (None: wherever it lies). Raises ``OutsideError`` for a
    link that leads out, and ``OSError`` for a folder that is not there.
    """
    # The paths of two files are never equal.
    return tuple(StudyFile(*found) for found in sorted(_files(str(folder), root)))


def merged(listings: Sequence[Sequence[StudyFile]]) -> tuple[StudyFile, ...]:
    """The files of several folders, each once, by path: folders may be the same, or lie in each other."""
    if len(listings) == 1:
        return tuple(listings[0])
    found = {file.path: file for files in listings for file in files}
    return tuple(found[path] for path in sorted(found))


def _files(folder: str, root: Path | None) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if root is not None and entry.is_symlink():
                base, target = os.path.realpath(root), os.path.realpath(entry.path)
                if os.path.commonpath([base, target]) != base:
                    raise OutsideError
            # What lies behind a linked folder could be listed twice, or without end.
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, root)
            elif entry.is_file():
                found = entry.stat()
                yield entry.path, found.st_size, found.st_mtime_ns
