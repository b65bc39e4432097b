"""The hub's database: engine, sessions, migration. SQLite embedded by default, PostgreSQL by URL."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.pool import ConnectionPoolEntry
from sqlmodel import Session

from flip_fl.errors import FlipError

SQLITE_BUSY_TIMEOUT_S = 15.0
_MIGRATIONS = Path(__file__).parent / "migrations"
# Any constant number: two processes that migrate one PostgreSQL at once wait for each other on it.
_MIGRATION_LOCK = 7_303_014
_TURN = "flip_turn"
# A statement's option: its result is bytes, large ones. PostgreSQL sends them as hexadecimal text otherwise.
BYTES = "flip_bytes"
# psycopg.pq.Format.BINARY, of a driver that is only there with the extra.
_BINARY = 1


def open_engine(url: str) -> Engine:
    """An engine for ``sqlite:///…`` or ``postgresql://…``; connects to nothing yet.

    On SQLite a transaction takes the write lock at its start, so that what it has read stays true until it writes;
    sessions opened with ``reading`` take none. Errors do not quote what was stored. Raises ``FlipError`` E1001 for a
    URL that cannot be used.
    """
    address = _address(url)
    if address.get_backend_name() == "sqlite":
        options = {"timeout": SQLITE_BUSY_TIMEOUT_S, "check_same_thread": False}
        engine = create_engine(address, connect_args=options, hide_parameters=True)
        event.listen(engine, "connect", _configure_sqlite)
        turns = _Turns()
        event.listen(engine, "begin", turns.begin)
        event.listen(engine, "checkin", turns.end)
        return engine
    engine = create_engine(address, pool_size=10, max_overflow=30, pool_pre_ping=True, hide_parameters=True)
    event.listen(engine, "before_cursor_execute", _ask_for_binary)
    return engine


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session that may change rows; whoever uses it commits. What is not committed is rolled back."""
    with Session(engine) as session:
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that only reads: one consistent view, and it never waits for a writer."""
    with Session(engine.execution_options(flip_reading=True, **snapshot_options(engine))) as session:
        yield session


def migrate(url: str) -> None:
    """Bring the database to this version's schema; creates the file (readable by its owner alone) on SQLite.

    Harmless when it is there already, and when two processes do it at once. Raises ``FlipError`` E1001 when the
    database cannot be reached or holds a schema that this version does not know.
    """
    engine = open_engine(url)
    try:
        _create_file(engine.url)
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            _refuse_unknown_revision(connection, engine.url)
            config = _alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except (DBAPIError, OSError) as error:
        raise unusable(engine.url, error) from error
    finally:
        engine.dispose()


def size_bytes(session: Session) -> int:
    """How much room the database takes on the disk."""
    if session.get_bind().dialect.name == "postgresql":
        return int(session.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    pages = "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
    return int(session.execute(text(pages)).scalar_one())


def require_current_schema(engine: Engine) -> None:
    """Raises ``FlipError`` E1001 unless the database answers and has exactly this version's schema."""
    try:
        with engine.execution_options(flip_reading=True).connect() as connection:
            revision = _revision(connection)
    except DBAPIError as error:
        raise unusable(engine.url, error) from error
    head = ScriptDirectory.from_config(_alembic_config()).get_current_head()
    if revision != head:
        held = "no tables yet" if revision is None else f"schema {revision}, this version needs {head}"
        raise FlipError("E1001", url=shown(engine.url), problem=f"it has {held}", fix="flip-fl hub init")


def _address(url: str) -> URL:
    try:
        address = make_url(url)
    except ArgumentError:
        raise FlipError("E1001", url="(malformed)", problem="it is no database address") from None
    backend = {"postgres": "postgresql"}.get(address.get_backend_name(), address.get_backend_name())
    if backend == "postgresql":
        return address.set(drivername="postgresql+psycopg")
    if backend == "sqlite":
        return address.set(drivername="sqlite+pysqlite")
    raise FlipError("E1001", url=shown(address), problem=f"{backend} is neither sqlite nor postgresql")


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """For the lock that this change takes SQLite itself does not wait: two processes may open a new file at once."""
    deadline = time.monotonic() + SQLITE_BUSY_TIMEOUT_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _configure_sqlite(connection: Any, _record: object) -> None:
    # The driver must not begin transactions by itself: `_Turns` says when and how.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = ON")
    _use_wal(cursor)
    # What the hub has acknowledged is deleted by its sender: it must survive a power cut.
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.close()


class _Turns:
    """Writers of one process take turns, each until its connection is given back.

    SQLite lets who waits for the lock look again after ever longer pauses: of many, one may look too late for as long
    as the others go on.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def begin(self, connection: Connection) -> None:
        if connection.get_execution_options().get("flip_reading", False):
            connection.exec_driver_sql("BEGIN")
            return
        # Another process may hold SQLite's own lock for as long: whoever gets no turn in time is told by SQLite.
        if not connection.info.get(_TURN) and self._lock.acquire(timeout=SQLITE_BUSY_TIMEOUT_S):
            connection.info[_TURN] = True
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def end(self, _connection: Any, record: ConnectionPoolEntry) -> None:
        if record.info.pop(_TURN, False):
            self._lock.release()


def snapshot_options(engine: Engine) -> dict[str, Any]:
    """What a connection needs so that it sees the database as of one moment."""
    return {"isolation_level": "REPEATABLE READ"} if engine.dialect.name == "postgresql" else {}


def _ask_for_binary(
    _connection: Connection, cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    if context.execution_options.get(BYTES):
        cursor.format = _BINARY


def _create_file(url: URL) -> None:
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return
    path = Path(str(url.database))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600, exist_ok=True)


def _alembic_config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _refuse_unknown_revision(connection: Connection, url: URL) -> None:
    revision = _revision(connection)
    known = {script.revision for script in ScriptDirectory.from_config(_alembic_config()).walk_revisions()}
    if revision is not None and revision not in known:
        raise FlipError(
            "E1001",
            url=shown(url),
            problem=f"its schema {revision} is not known to this version of flip_fl",
            fix="use the version of flip_fl that wrote it, or a newer one",
        )


def shown(url: URL) -> str:
    """The address without its password."""
    return url.render_as_string(hide_password=True)


def unusable(url: URL, error: Exception) -> FlipError:
    """That a database cannot be used, and why."""
    # A driver's own text may quote the address with its password, so only its first cause is named.
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, sqlite3.Error | OSError):
        problem = str(cause.strerror if isinstance(cause, OSError) and cause.strerror else cause)
    else:
        problem = f"no answer ({type(cause).__name__})"
    return FlipError("E1001", url=shown(url), problem=problem)
