"""What a site's data comes from: a trust's services in production, a CSV and a folder in development."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flip_fl.values import ResourceType

if TYPE_CHECKING:
    from pandas import DataFrame


class Source(Protocol):
    """The three things that a site asks of its trust. Safe for several threads.

    ``project_id`` is opaque and passed on unread. No implementation logs or raises a row, a query or an accession
    number.
    """

    @property
    def images_root(self) -> Path | None:
        """Where a service puts the studies that a job asks for, and where they are removed again when the job is over.

        None: the folders are somebody's own, and nothing in them is ever removed.
        """
        ...

    @property
    def state_dir(self) -> Path | None:
        """The site's folder for what outlives a process; None: there is none."""
        ...

    @property
    def in_flight(self) -> int:
        """How many studies may be asked for at once."""
        ...

    def dataframe(self, project_id: str, query: str) -> DataFrame:
        """The cohort, a row per study or subject. ``accession_id``, where there is one, is text."""
        ...

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        """The folder that holds each type of one study, in the order asked for.

        Raises ``ValueError`` for no types, ``FlipError`` E0903 for an accession number that is no plain name,
        ``http.HttpStatusError`` (404: no such study or no such data) and ``http.HttpConnectionError``.
        """
        ...

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: Sequence[str]
    ) -> None:
        """Store ``files``, relative to the net's upload folder, as a resource of a scan.

        Raises as ``resources`` does, and ``FlipError`` E0704 for a file that leads out of the upload folder.
        """
        ...


def check_study(accession_id: str, types: Sequence[ResourceType]) -> None:
    """What every source refuses before it builds a path or calls anybody: see ``Source.resources``."""
    from flip_fl.data.paths import check_accession

    if not types:
        raise ValueError("resource_type must name at least one resource type, got an empty list")
    check_accession(accession_id)


def check_upload(accession_id: str, files: Sequence[str]) -> None:
    """What every source refuses to store: see ``Source.add_resource``."""
    from flip_fl.data.paths import check_accession, check_relative

    check_accession(accession_id)
    for position, file in enumerate(files):
        # A file's name often holds the accession number: the message says which one, not what it is called.
        check_relative(file, root="the net's upload folder", called=f"files[{position}]")
