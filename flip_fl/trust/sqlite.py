"""The trust's database in SQLite files, read only: one for the services' own tables, one that is the schema omop."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from flip_fl.trust import refusal
from flip_fl.trust.address import OMOP, Address
from flip_fl.trust.own import SNAPSHOT_PREFIX
from flip_fl.trust.refusal import Refusal
from flip_fl.trust.selection import BATCH_ROWS, QUERY_TIMEOUT_S, Row, Selection

_logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 15.0
_STEPS_BETWEEN_LOOKS = 10_000
# The longest text that a query may make.
_MAX_VALUE_BYTES = 16 << 20
_FUNCTION_NAMES = """
    abs acos asin atan atan2 avg ceil ceiling char coalesce concat concat_ws cos count cume_dist date datetime
    degrees dense_rank exp first_value floor format glob group_concat ifnull iif instr julianday lag last_value lead
    length like ln log log10 log2 lower ltrim max min mod nth_value ntile nullif octet_length percent_rank pi pow power
    radians rank replace round row_number rtrim sign sin sqrt strftime string_agg substr substring sum tan time
    timediff total trim trunc typeof unicode unixepoch upper"""
_FUNCTIONS = frozenset(_FUNCTION_NAMES.split())
# Errors of a statement that was compiled; what depends on values is among them.
_ABOUT_DATA = frozenset({"SQLITE_ERROR", "SQLITE_TOOBIG", "SQLITE_MISMATCH", "SQLITE_RANGE"})


class SqliteDatabase:
    """A ``Database`` in files. Each query opens them anew, so that it sees what was loaded last."""

    dialect: Literal["sqlite"] = "sqlite"

    def __init__(self, address: Address, *, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        assert address.main is not None
        self._address = address
        self._main = address.main
        self._timeout_s = timeout_s

    @contextmanager
    def select(self, statement: str) -> Iterator[Selection]:
        deadline = time.monotonic() + self._timeout_s
        with self._connection() as connection:
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
            connection.set_authorizer(_authorize)
            with compiling():
                # Nothing runs yet: whatever is wrong now is wrong with the statement, not with a value.
                connection.execute(f"EXPLAIN {statement}").close()
            with running():
                cursor = connection.execute(statement)
                names = tuple(column[0] for column in cursor.description)
                yield Selection(names, (None,) * len(names), _batches(cursor))

    def look_up(self, statement: str, values: Sequence[object]) -> Row | None:
        try:
            with closing(_open(self._main)) as connection:
                row: Row | None = connection.execute(statement, tuple(values)).fetchone()
                return row
        except sqlite3.Error as error:
            raise _fault(error) from None

    def check(self) -> None:
        if not self._main.is_file() or not self._address.omop.is_file():
            raise self._address.unusable("it holds no cohort yet", fix="flip-fl trust load --cohort CSV")
        try:
            with self._connection():
                pass
        except Refusal:
            raise self._address.unusable("it is no SQLite database, or cannot be read") from None

    def close(self) -> None:
        """Nothing stays open."""

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = _open(self._main)
        except sqlite3.Error as error:
            raise _fault(error) from None
        with closing(connection):
            try:
                connection.execute(f"ATTACH DATABASE ? AS {OMOP}", (_uri(self._address.omop),))
                connection.execute("PRAGMA query_only = ON")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
                connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 1)
                # One view of both files from here on.
                connection.execute("BEGIN")
                connection.execute("SELECT count(*) FROM main.sqlite_master").fetchone()
                connection.execute(f"SELECT count(*) FROM {OMOP}.sqlite_master").fetchone()
            except sqlite3.Error as error:
                raise _fault(error) from None
            yield connection


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}?mode=ro"


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(_uri(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _authorize(action: int, first: str | None, second: str | None, schema: str | None, _inner: str | None) -> int:
    """SQLite's own check of each part of a statement, after the validator's: a second lock of another make."""
    allowed = False
    if action == sqlite3.SQLITE_SELECT:
        allowed = True
    elif action == sqlite3.SQLITE_READ:
        table = first or ""
        of_omop = schema == OMOP and not table.lower().startswith("sqlite_")
        # A table expression of the query itself has no schema; it is named when none of its columns are read.
        own = schema is None and not second
        allowed = of_omop or own or (schema == "main" and table.startswith(SNAPSHOT_PREFIX))
    elif action == sqlite3.SQLITE_FUNCTION:
        allowed = (second or "").lower() in _FUNCTIONS
    return sqlite3.SQLITE_OK if allowed else sqlite3.SQLITE_DENY


def _batches(cursor: sqlite3.Cursor) -> Iterator[Sequence[Row]]:
    with running():
        while rows := cursor.fetchmany(BATCH_ROWS):
            yield rows


@contextmanager
def compiling() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        text = str(error)
        if _name(error) not in {*_ABOUT_DATA, "SQLITE_AUTH"}:
            raise _fault(error) from None
        if text.startswith("no such table"):
            raise refusal.unknown_table() from None
        if text.startswith("no such column"):
            raise refusal.unknown_column() from None
        raise refusal.not_runnable() from None


@contextmanager
def running() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        name = _name(error)
        if name == "SQLITE_INTERRUPT":
            raise refusal.out_of_time() from None
        if name in _ABOUT_DATA:
            # Told apart from "too small", such an error would be an answer about one person.
            _logger.warning("a query ended in an error about its data (%s); it is refused as too small", name)
            raise refusal.too_small() from None
        raise _fault(error) from None


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", "none"))


def _fault(error: sqlite3.Error) -> Refusal:
    _logger.error("the trust's database gave no answer (%s, %s)", type(error).__name__, _name(error))
    return refusal.database_fault()
