"""Writing a trust's database: tables in bulk, projects, and snapshots. Only ``load`` does this; services only read."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from flip_fl.trust.address import parse
from flip_fl.trust.omop import Relation


class Store(Protocol):
    """A trust's database, opened for writing. Each method is one transaction. Raises ``FlipError`` E0950."""

    @property
    def dialect(self) -> Literal["postgres", "sqlite"]:
        """How its SQL is written."""
        ...

    def replace(self, relations: Iterable[Relation]) -> None:
        """Make the tables of the schema omop anew; whoever reads meanwhile sees the old ones, or the new."""
        ...

    def register(self, project: str) -> None:
        """Make the project known; harmless when it is."""
        ...

    def approve(self, project: str, statement: str) -> int:
        """Keep what ``statement`` (checked) selects now as the project's snapshot; how many rows it has.

        Raises ``Refusal`` where the database does not take the statement.
        """
        ...


def open_store(url: str) -> AbstractContextManager[Store]:
    """The database at ``url``, its own tables made where they are not there. Raises ``FlipError`` E0950."""
    address = parse(url)
    if address.main is not None:
        from flip_fl.trust.sqlite_store import sqlite_store

        return sqlite_store(address)
    from flip_fl.trust.postgres_store import postgres_store

    return postgres_store(address)
