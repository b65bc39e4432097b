"""Paths that others give must stay inside their folder; accession numbers must not become paths at all."""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath

from flip_fl.errors import FlipError


def inside(root: Path, relative: str | Path, *, called: str | None = None) -> Path:
    """``root / relative``, resolved, if that lies inside ``root`` after following symbolic links.

    Raises ``FlipError`` E0704 otherwise; ``called`` stands in its text where the path itself must not be shown.
    """
    base = root.resolve()
    path = (base / relative).resolve()
    if path != base and base not in path.parents:
        raise FlipError("E0704", path=called or relative, root=root)
    return path


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
