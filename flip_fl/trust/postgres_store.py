"""Writing a trust's PostgreSQL database: the schema omop by COPY, the services' own tables in flip_trust."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import psycopg
from psycopg import sql

from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.trust import own
from flip_fl.trust.address import OMOP, OWN, Address
from flip_fl.trust.omop import Relation
from flip_fl.trust.postgres import named
from flip_fl.trust.selection import Kind

_ROWS_AT_ONCE = 50_000
_TYPES = {Kind.INTEGER: "bigint", Kind.NUMBER: "double precision", Kind.BOOLEAN: "boolean", Kind.TEXT: "text"}
# Any constant number: two loads of one database wait for each other on it.
_LOCK = 7_303_015
_LOCK_TIMEOUT = "60s"
_OWN_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS {OMOP};
CREATE SCHEMA IF NOT EXISTS {OWN};
CREATE TABLE IF NOT EXISTS {OWN}.{own.PROJECTS} (name text PRIMARY KEY, snapshot bigint);
CREATE TABLE IF NOT EXISTS {OWN}.{own.STUDIES} (
  snapshot bigint NOT NULL, accession_id text NOT NULL, PRIMARY KEY (snapshot, accession_id));
CREATE SEQUENCE IF NOT EXISTS {OWN}.flip_number;
"""


@contextmanager
def postgres_store(address: Address) -> Iterator[PostgresStore]:
    """Raises ``FlipError`` E0950."""
    conninfo = address.url.set(drivername="postgresql").render_as_string(hide_password=False)
    try:
        with psycopg.connect(conninfo, connect_timeout=10, client_encoding="utf8", autocommit=True) as connection:
            yield PostgresStore(connection)
    except psycopg.Error as error:
        # A driver's own text may quote the address, or rows.
        raise address.unusable(f"no answer ({type(error).__name__}, SQLSTATE {error.sqlstate or 'none'})") from None


class PostgresStore:
    """A ``Store`` over one connection."""

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        with self._transaction():
            connection.execute(_OWN_TABLES.encode())

    def replace(self, relations: Iterable[Relation]) -> None:
        with self._transaction():
            for relation in relations:
                self._fill(relation)

    def register(self, project: str) -> None:
        with self._transaction():
            self._connection.execute(
                f"INSERT INTO {OWN}.{own.PROJECTS} (name) VALUES (%s) ON CONFLICT DO NOTHING".encode(), (project,)
            )

    def approve(self, project: str, statement: str) -> int:
        run = self._connection.execute
        with self._transaction():
            number = int(self._one(f"SELECT nextval('{OWN}.flip_number')"))
            table = own.snapshot_table(self.dialect, number)
            run(b"SET LOCAL search_path = ''")
            with named():
                run(f"CREATE TABLE {table} AS {statement}".encode())
            rows = int(self._one(f"SELECT count(*) FROM {table}"))
            columns = run(f"SELECT * FROM {table} LIMIT 0".encode()).description or []
            if ACCESSION_ID in [column.name for column in columns]:
                run(
                    f"INSERT INTO {OWN}.{own.STUDIES} SELECT DISTINCT {number}, {ACCESSION_ID}::text FROM {table}"
                    f" WHERE {ACCESSION_ID} IS NOT NULL".encode()
                )
            run(
                f"INSERT INTO {OWN}.{own.PROJECTS} VALUES (%s, %s)"
                " ON CONFLICT (name) DO UPDATE SET snapshot = excluded.snapshot".encode(),
                (project, number),
            )
        return rows

    def _one(self, statement: str) -> Any:
        row = self._connection.execute(statement.encode()).fetchone()
        assert row is not None
        return row[0]

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection.transaction():
            self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            self._connection.execute(b"SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            yield

    def _fill(self, relation: Relation) -> None:
        from pyarrow import csv

        table = sql.Identifier(OMOP, relation.name)
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(_TYPES[kind])) for name, kind in relation.columns
        )
        self._connection.execute(sql.SQL("DROP TABLE IF EXISTS {}").format(table))
        self._connection.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))
        options = csv.WriteOptions(include_header=False, quoting_style="needed")
        copy = sql.SQL("COPY {} FROM STDIN (FORMAT csv)").format(table)
        with self._connection.cursor() as cursor, cursor.copy(copy) as sink:
            for part in relation.parts:
                for batch in part.to_batches(_ROWS_AT_ONCE):
                    block = io.BytesIO()
                    csv.write_csv(batch, block, options)
                    sink.write(block.getbuffer())
        self._connection.execute(sql.SQL("ANALYZE {}").format(table))
