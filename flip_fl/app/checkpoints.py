"""Where a checkpoint that a job names lies on the FL server. Nothing is read here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from flip_fl.app.rules import plain_file
from flip_fl.errors import FlipError


def checkpoint_folders(app_dir: Path, root: Path | None, model_id: UUID) -> tuple[Path, ...]:
    """Where the server looks: the app's own folder, then ``<SERVER_CHECKPOINT_ROOT>/<model_id>``."""
    return (app_dir,) if root is None else (app_dir, root / str(model_id))


def find_checkpoint(name: str, folders: Iterable[Path]) -> Path:
    """The first file ``name`` in ``folders``.

    Raises ``FlipError`` E0211 for anything but a plain file name, before a path is built of it, and E0210 when no
    folder holds such a file. A link that leads elsewhere is no such file.
    """
    if plain_file(name) is not None:
        raise FlipError("E0211", name=name)
    looked = tuple(folders)
    for folder in looked:
        path = folder / name
        if path.is_file() and path.resolve().parent == folder.resolve():
            return path
    raise FlipError("E0210", name=name, places=" and ".join(str(folder) for folder in looked), place=looked[-1])
