"""A result as it comes from a database, whichever it is: names, kinds, and rows in batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

# Rows in memory at once, as Python's objects.
BATCH_ROWS = 10_000
QUERY_TIMEOUT_S = 120.0
Row = Sequence[Any]


class Kind(StrEnum):
    """What a column holds. Everything that is no number and no truth value travels as text, dates in ISO form."""

    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TEXT = "text"


@dataclass(frozen=True)
class Selection:
    """A query that runs. ``kinds`` are None where only the values tell (SQLite); ``batches`` may raise ``Refusal``."""

    names: tuple[str, ...]
    kinds: tuple[Kind | None, ...]
    batches: Iterator[Sequence[Row]]


class Database(Protocol):
    """A trust's database, as its services use it: they only read. Safe for several threads."""

    @property
    def dialect(self) -> Literal["postgres", "sqlite"]:
        """How its SQL is written."""
        ...

    def select(self, statement: str) -> AbstractContextManager[Selection]:
        """Run one statement that the validator has passed, or ``snapshot_query``, in a read-only transaction.

        Raises ``Refusal``: 400 for what the database does not take, 403 where an error would tell of a value,
        500 for a fault and for a query that took too long.
        """
        ...

    def look_up(self, statement: str, values: Sequence[object]) -> Row | None:
        """The first row of a fixed statement of ours on the services' own tables. Raises ``Refusal`` 500."""
        ...

    def check(self) -> None:
        """Raises ``FlipError`` E0950 unless the database answers and holds what ``load`` makes."""
        ...

    def close(self) -> None: ...
