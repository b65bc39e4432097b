"""The services' own tables: which projects there are, and what was approved for them.

They lie where no query of a client reaches: in the schema ``flip_trust`` on PostgreSQL, in the main file on SQLite.
A snapshot is a table by itself, made when it is approved, never changed and never removed.
"""

from __future__ import annotations

from dataclasses import dataclass

from flip_fl.trust.address import OWN
from flip_fl.trust.selection import Database

SNAPSHOT_PREFIX = "flip_snapshot_"
PROJECTS = "flip_project"
STUDIES = "flip_study"


@dataclass(frozen=True)
class Project:
    """A project that the trust knows; ``snapshot`` is the number of what was approved for it, None if nothing was."""

    name: str
    snapshot: int | None


def qualified(dialect: str, table: str) -> str:
    """How one of these tables is called in a statement."""
    return f"{OWN}.{table}" if dialect == "postgres" else table


def snapshot_table(dialect: str, number: int) -> str:
    return qualified(dialect, f"{SNAPSHOT_PREFIX}{number:d}")


def find_project(database: Database, name: str) -> Project | None:
    """Raises ``Refusal`` 500."""
    table = qualified(database.dialect, PROJECTS)
    row = database.look_up(f"SELECT snapshot FROM {table} WHERE name = ?", (name,))
    return None if row is None else Project(name, row[0])


def has_study(database: Database, snapshot: int, accession_id: str) -> bool:
    """Whether a row of the snapshot names the study. Raises ``Refusal`` 500."""
    table = qualified(database.dialect, STUDIES)
    query = f"SELECT 1 FROM {table} WHERE snapshot = ? AND accession_id = ?"
    return database.look_up(query, (snapshot, accession_id)) is not None
