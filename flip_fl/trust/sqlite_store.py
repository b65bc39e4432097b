"""Writing a trust's SQLite files. The schema omop is a file by itself, so that a new one can take its place whole."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.trust import own
from flip_fl.trust.address import OMOP, Address
from flip_fl.trust.omop import Relation
from flip_fl.trust.selection import Kind
from flip_fl.trust.sqlite import BUSY_TIMEOUT_S, compiling, running

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_AT_ONCE = 10_000
_TYPES = {Kind.INTEGER: "INTEGER", Kind.NUMBER: "REAL", Kind.BOOLEAN: "INTEGER", Kind.TEXT: "TEXT"}
_OWN_TABLES = f"""
CREATE TABLE IF NOT EXISTS {own.PROJECTS} (name TEXT PRIMARY KEY, snapshot INTEGER);
CREATE TABLE IF NOT EXISTS {own.STUDIES} (
  snapshot INTEGER NOT NULL, accession_id TEXT NOT NULL, PRIMARY KEY (snapshot, accession_id)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flip_number (last INTEGER NOT NULL);
"""


@contextmanager
def sqlite_store(address: Address) -> Iterator[SqliteStore]:
    """Raises ``FlipError`` E0950."""
    try:
        yield SqliteStore(address)
    except (sqlite3.Error, OSError) as error:
        problem = error.strerror if isinstance(error, OSError) else getattr(error, "sqlite_errorname", "no answer")
        raise address.unusable(problem) from None


class SqliteStore:
    """A ``Store`` in two files, readable by their owner alone."""

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(self, address: Address) -> None:
        assert address.main is not None
        self._main = address.main
        self._omop = address.omop
        self._main.parent.mkdir(parents=True, exist_ok=True)
        _create(self._main)
        with closing(_connect(self._main)) as connection:
            connection.executescript(f"BEGIN IMMEDIATE;{_OWN_TABLES}COMMIT;")

    def replace(self, relations: Iterable[Relation]) -> None:
        fresh = self._omop.with_name(f"{self._omop.name}.{os.getpid()}.new")
        fresh.unlink(missing_ok=True)
        _create(fresh)
        try:
            with closing(_connect(fresh)) as connection:
                # Nobody reads it before it is whole, and then it is renamed.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                connection.execute("BEGIN")
                for relation in relations:
                    _fill(connection, relation)
                connection.execute("COMMIT")
            _flush(fresh)
            fresh.replace(self._omop)
        finally:
            fresh.unlink(missing_ok=True)

    def register(self, project: str) -> None:
        with closing(_connect(self._main)) as connection:
            connection.execute(f"INSERT OR IGNORE INTO {own.PROJECTS} (name) VALUES (?)", (project,))

    def approve(self, project: str, statement: str) -> int:
        with closing(_connect(self._main)) as connection:
            connection.execute(f"ATTACH DATABASE ? AS {OMOP}", (f"file:{quote(str(self._omop))}?mode=ro",))
            with compiling():
                connection.execute(f"EXPLAIN {statement}").close()
            connection.execute("BEGIN IMMEDIATE")
            number = _next_number(connection)
            table = own.snapshot_table(self.dialect, number)
            with running():
                connection.execute(f"CREATE TABLE {table} AS {statement}")
            rows: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
            if ACCESSION_ID in columns:
                connection.execute(
                    f"INSERT INTO {own.STUDIES} SELECT DISTINCT {number}, CAST({ACCESSION_ID} AS TEXT) FROM {table}"
                    f" WHERE {ACCESSION_ID} IS NOT NULL"
                )
            connection.execute(
                f"INSERT INTO {own.PROJECTS} VALUES (?, ?)"
                " ON CONFLICT (name) DO UPDATE SET snapshot = excluded.snapshot",
                (project, number),
            )
            connection.execute("COMMIT")
        return rows


def _next_number(connection: sqlite3.Connection) -> int:
    connection.execute("INSERT INTO flip_number SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM flip_number)")
    connection.execute("UPDATE flip_number SET last = last + 1")
    number: int = connection.execute("SELECT last FROM flip_number").fetchone()[0]
    return number


def _fill(connection: sqlite3.Connection, relation: Relation) -> None:
    columns = ", ".join(f"{_quoted(name)} {_TYPES[kind]}" for name, kind in relation.columns)
    connection.execute(f"CREATE TABLE {_quoted(relation.name)} ({columns})")
    marks = ", ".join("?" * len(relation.columns))
    statement = f"INSERT INTO {_quoted(relation.name)} VALUES ({marks})"
    for part in relation.parts:
        for batch in part.to_batches(_ROWS_AT_ONCE):
            connection.executemany(statement, _rows(batch))


def _rows(batch: pa.RecordBatch) -> Iterable[tuple[object, ...]]:
    return zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
