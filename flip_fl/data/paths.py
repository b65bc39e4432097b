"""Paths that others give must stay inside their folder; accession numbers must not become paths at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath

from flip_fl.errors import FlipError

# The folder of a net's images from which the imaging service takes what apps made: never a study's.
UPLOAD = "upload"


def inside(root: Path, relative: str | Path, *, called: str | None = None) -> Path:
    """``root / relative``, resolved, if that lies inside ``root`` after following symbolic links.

    Raises ``FlipError`` E0704 otherwise; ``called`` stands in its text where the path itself must not be shown.
    """
    return Root(root).inside(relative, called=called)


class Root:
    """A folder in which many paths must lie. Where it leads to is looked up when the first is checked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._base: Path | None = None

    def inside(self, relative: str | Path, *, called: str | None = None, fix: str | None = None) -> Path:
        """See ``inside``; ``fix`` replaces the error's own words."""
        path = _below(self._base or self._resolved(), relative)
        if path is None:
            # The root may lead elsewhere by now.
            path = _below(self._resolved(), relative)
        if path is None:
            raise FlipError("E0704", path=called or relative, root=self._root, fix=fix)
        return path

    def _resolved(self) -> Path:
        self._base = self._root.resolve()
        return self._base


def _below(base: Path, relative: str | Path) -> Path | None:
    path = _plain(base, str(relative)) or (base / relative).resolve()
    return path if path == base or base in path.parents else None


def _plain(base: Path, relative: str) -> Path | None:
    """``base / relative``, if it is plain to see that it is its own resolution: below the base, and no part a link."""
    at = str(base)
    path = os.path.join(at, relative)
    below = path.removeprefix(f"{at}/")
    parts = below.split("/")
    if below == path or not _NO_NAMES.isdisjoint(parts):
        return None
    try:
        for part in parts:
            at = f"{at}/{part}"
            if stat.S_ISLNK(os.lstat(at).st_mode):
                return None
    except (OSError, ValueError):
        # Nothing lies there, or nobody can say.
        return None
    return Path(path)


# Parts of a path that are not the names of what lies there.
_NO_NAMES = frozenset(("", ".", ".."))


def check_relative(path: str, *, root: str, called: str) -> None:
    """Raises ``FlipError`` E0704 unless ``path`` is a plain relative path (``a/b.nii.gz``) on any system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    climbs = ".." in posix.parts or ".." in windows.parts
    anchored = posix.is_absolute() or bool(windows.anchor)
    if not path.strip() or climbs or anchored or "\0" in path:
        raise FlipError("E0704", path=called, root=root)


def check_accession(accession_id: str) -> None:
    """Raises ``FlipError`` E0903, which never shows the number, for one that could not be a folder's plain name."""
    problem = None
    if not accession_id.strip():
        problem = "it is empty"
    elif "/" in accession_id or "\\" in accession_id:
        problem = "it holds a slash"
    elif ".." in accession_id or accession_id == ".":
        problem = "it holds '..' or is '.'"
    elif not accession_id.isprintable():
        problem = "it holds a control character"
    if problem is not None:
        raise FlipError("E0903", problem=problem)
