"""Storing files as a resource of a study, each with its own outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
