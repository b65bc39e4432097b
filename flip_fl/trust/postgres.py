"""The trust's database on PostgreSQL, read only."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Literal

import psycopg
from psycopg.adapt import Buffer, Loader
from psycopg.types.numeric import FloatLoader
from sqlalchemy import create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from flip_fl.trust import refusal
from flip_fl.trust.address import Address
from flip_fl.trust.refusal import Refusal
from flip_fl.trust.selection import BATCH_ROWS, QUERY_TIMEOUT_S, Kind, Row, Selection

_logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S = 10
_KINDS = MappingProxyType(
    {
        **dict.fromkeys((20, 21, 23, 26), Kind.INTEGER),  # int8, int2, int4, oid
        **dict.fromkeys((700, 701, 1700), Kind.NUMBER),  # float4, float8, numeric
        16: Kind.BOOLEAN,
    }
)
# Whatever the server's own settings are: names without a schema find nothing, a backslash is a backslash, rows come in
# the order in which they lie, and times are written in one way.
_SESSION = """
SET LOCAL statement_timeout = {timeout_ms};
SET LOCAL search_path = '';
SET LOCAL standard_conforming_strings = on;
SET LOCAL synchronize_seqscans = off;
SET LOCAL cursor_tuple_fraction = 1;
SET LOCAL timezone = 'UTC';
SET LOCAL datestyle = 'ISO, YMD';
SET LOCAL intervalstyle = 'iso_8601';
"""


class PostgresDatabase:
    """A ``Database`` on PostgreSQL: a pool of connections that can only begin read-only transactions."""

    dialect: Literal["postgres"] = "postgres"

    def __init__(self, address: Address, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        self._address = address
        self._timeout_s = timeout_s
        self._engine = create_engine(
            address.url,
            pool_size=4,
            max_overflow=36,
            pool_pre_ping=True,
            connect_args={"connect_timeout": _CONNECT_TIMEOUT_S, "client_encoding": "utf8", "prepare_threshold": None},
        )
        event.listen(self._engine, "connect", _configure)

    @contextmanager
    def select(self, statement: str) -> Iterator[Selection]:
        deadline = time.monotonic() + self._timeout_s
        # A cursor of the server takes a query and nothing else, and exactly one.
        with self._transaction() as connection, named(), connection.cursor(name="cohort") as cursor:
            cursor.execute(statement.encode())
            columns = cursor.description or []
            yield Selection(
                tuple(column.name for column in columns),
                tuple(_KINDS.get(column.type_code, Kind.TEXT) for column in columns),
                _batches(cursor, deadline),
            )

    def look_up(self, statement: str, values: Sequence[object]) -> Row | None:
        with self._transaction() as connection:
            try:
                return connection.execute(statement.replace("?", "%s").encode(), values).fetchone()
            except psycopg.Error as error:
                raise _fault(error) from None

    def check(self) -> None:
        try:
            with self._transaction() as connection:
                schemas = connection.execute(
                    "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname IN ('omop', 'flip_trust')"
                ).fetchone()
        except Refusal:
            raise self._address.unusable("no answer") from None
        if schemas is None or schemas[0] != 2:
            raise self._address.unusable("it holds no cohort yet", fix="flip-fl trust load --cohort CSV")

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """A read-only transaction, rolled back at the end. Raises ``Refusal`` 500 when there is no connection."""
        try:
            pooled = self._engine.raw_connection()
        except (SQLAlchemyError, psycopg.Error) as error:
            raise _fault(error) from None
        try:
            connection: Any = pooled.driver_connection
            try:
                # Several statements in one go: one way to the server and back.
                connection.execute(_SESSION.format(timeout_ms=int(self._timeout_s * 1000)))
            except psycopg.Error as error:
                raise _fault(error) from None
            yield connection
        finally:
            # The pool rolls back, and drops a connection that is broken.
            pooled.close()


def _configure(connection: psycopg.Connection[Any], _record: object) -> None:
    connection.read_only = True
    # A cursor sees one moment anyway. A transaction that did would find a table empty that was loaded anew while it
    # waited for it: its moment would be before the rows, and the table after.
    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
    connection.adapters.register_loader("numeric", FloatLoader)
    # Python has no date before year 1 nor infinity, PostgreSQL has: text is what is sent anyway.
    for name in ("date", "time", "timetz", "interval", "json", "jsonb", "uuid"):
        connection.adapters.register_loader(name, _TextLoader)
    for name in ("timestamp", "timestamptz"):
        connection.adapters.register_loader(name, _MomentLoader)


class _TextLoader(Loader):
    def load(self, data: Buffer) -> str:
        return bytes(data).decode()


class _MomentLoader(Loader):
    def load(self, data: Buffer) -> str:
        return bytes(data).decode().replace(" ", "T", 1)


def _batches(cursor: psycopg.ServerCursor[tuple[Any, ...]], deadline: float) -> Iterator[Sequence[Row]]:
    # The server's own time-out counts for each fetch anew.
    with named():
        while rows := cursor.fetchmany(BATCH_ROWS):
            if time.monotonic() > deadline:
                raise refusal.out_of_time()
            yield rows


@contextmanager
def named() -> Iterator[None]:
    """What PostgreSQL refuses, as a ``Refusal`` by category: its own text may quote rows."""
    try:
        yield
    except psycopg.Error as error:
        raise _refusal(error) from None


def _refusal(error: psycopg.Error) -> Refusal:
    state = error.sqlstate or ""
    if state in ("42P01", "3F000"):
        return refusal.unknown_table()
    if state == "42703":
        return refusal.unknown_column()
    # 42: not understood; 0A: not supported; 54: beyond a limit of the server's; 25006: a write.
    if state[:2] in ("42", "0A", "54") or state == "25006":
        return refusal.not_runnable()
    if state[:2] in ("21", "22"):
        # Such an error depends on values: told apart from "too small", it would be an answer about one person.
        _logger.warning("a query ended in an error about its data (SQLSTATE %s); it is refused as too small", state)
        return refusal.too_small()
    if state == "57014":
        return refusal.out_of_time()
    return _fault(error)


def _fault(error: Exception) -> Refusal:
    state = getattr(error, "sqlstate", None) or "none"
    _logger.error("the trust's database gave no answer (%s, SQLSTATE %s)", type(error).__name__, state)
    return refusal.database_fault()
