"""Storing files as a resource of a study, each with its own outcome."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.data.paths import UPLOAD
from flip_fl.data.sources.base import check_upload
from flip_fl.http import HttpConnectionError, HttpStatusError

if TYPE_CHECKING:
    from flip_fl.data.sources import Source


@dataclass(frozen=True)
class UploadOutcome:
    """What became of one file: ``stored``, or ``problem`` says in words why not."""

    file: str
    problem: str | None = None

    @property
    def stored(self) -> bool:
        return self.problem is None

    def __repr__(self) -> str:
        # A file's name often holds an accession number.
        return f"UploadOutcome({self.problem or 'stored'})"


def upload_dir(source: Source) -> Path:
    """Where a file must lie before it is uploaded: the net's upload folder, in development one of the site's own."""
    root = source.images_root or source.state_dir
    return Path(tempfile.gettempdir(), f"flip-{UPLOAD}-{os.getuid()}") if root is None else root / UPLOAD


def make_upload_dir(folder: Path) -> None:
    """Make ``folder`` where it is missing. Where that is not possible, whoever writes to it hears why.

    What it lies in is the trust's: a file system that is not mounted must not be made up for.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(exist_ok=True)


def named_from(folder: Path, files: Sequence[str | Path]) -> list[str]:
    """``files`` as the service takes them, relative to the upload folder; one that lies elsewhere stays as it is."""
    paths = [(str(file), Path(file)) for file in files]
    return [path.relative_to(folder).as_posix() if path.is_relative_to(folder) else text for text, path in paths]


def upload(
    source: Source,
    project_id: str,
    accession_id: str,
    scan_id: str,
    resource_id: str,
    files: Sequence[str],
    *,
    check: Callable[[], None] = lambda: None,
) -> list[UploadOutcome]:
    """Store ``files``, a request each: of several in one request nobody knows which were stored when it is refused.

    ``check`` is called before each and may raise to stop. Raises ``FlipError`` E0903 and E0704 before anything is sent.
    """
    check_upload(accession_id, files)
    outcomes = []
    for file in files:
        check()
        try:
            source.add_resource(project_id, accession_id, scan_id, resource_id, [file])
            outcomes.append(UploadOutcome(file))
        except HttpStatusError as error:
            outcomes.append(UploadOutcome(file, _WORDS.get(error.status_code, f"HTTP {error.status_code}")))
        except HttpConnectionError:
            outcomes.append(UploadOutcome(file, "no answer: it may be stored or not"))
    return outcomes


_WORDS = {
    400: "refused: it leads out of the upload folder",
    401: "the key was refused",
    404: "no such project or study",
    500: "the file is missing, or one of that name is there already",
}
