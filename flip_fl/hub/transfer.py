"""A hub's whole database, row by row, into another one: SQLite to PostgreSQL, a backup, and back from it."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from sqlalchemy import Connection, Engine, Table, func, insert, inspect, select, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from flip_fl.errors import FlipError
from flip_fl.hub import access_tables, database, tables, tallies  # noqa: F401 - the tables fill the metadata

_ROWS = 2_000
_TIMEOUT_S = 60.0


def copy_all(source_url: str, target_url: str, done: Callable[[str, int], None] | None = None) -> dict[str, int]:
    """Copy every row of a hub's database into an empty one; returns the rows by table, counted in the target.

    The source is read as of one moment, so that it may be served meanwhile; what comes later is not copied. The target
    gets this version's tables if it has none. All of it is one transaction. ``done`` hears of each finished table.
    Raises ``FlipError`` E1001 for a database that cannot be used, E1020 for a target that holds something already, and
    E1021 when a table does not hold afterwards what was read.
    """
    database.migrate(target_url)
    source, target = database.open_engine(source_url), database.open_engine(target_url)
    try:
        database.require_current_schema(source)
        with _snapshot(source) as reader, target.begin() as writer:
            _require_empty(writer, target)
            found = {}
            for table in _tables(reader):
                found[table.name] = _copy(table, reader, writer)
                if done is not None:
                    done(table.name, found[table.name])
            _continue_numbers(writer)
        return found
    except DBAPIError as error:
        raise database.unusable(target.url, error) from error
    finally:
        source.dispose()
        target.dispose()


def back_up(url: str, file: Path) -> dict[str, int]:
    """Write a hub's database into the new SQLite ``file``, readable by its owner alone; returns the rows by table.

    The hub may serve meanwhile. Raises ``FlipError`` E1001, E1020 for a file that is there, E1021 for a backup that
    does not hold together.
    """
    if file.exists():
        raise FlipError("E1020", target=file, holds="a file is there")
    draft = file.with_name(f".{file.name}.part")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    engine = database.open_engine(url)
    try:
        if engine.dialect.name == "sqlite":
            database.require_current_schema(engine)
            file.parent.mkdir(parents=True, exist_ok=True)
            draft.touch(mode=0o600)
            _copy_pages(Path(str(engine.url.database)), draft)
        else:
            copy_all(url, _address(draft))
        found = check(draft)
        with contextlib.closing(sqlite3.connect(draft)) as connection:
            # One file, not three.
            connection.execute("PRAGMA journal_mode = DELETE")
        draft.replace(file)
    finally:
        engine.dispose()
        for rest in (draft, *(draft.with_name(draft.name + end) for end in ("-wal", "-shm", "-journal"))):
            with contextlib.suppress(FileNotFoundError):
                rest.unlink()
    return found


def restore(file: Path, url: str) -> dict[str, int]:
    """Fill an empty database with a backup, of an older version too; returns the rows by table.

    The backup itself is not changed. Raises ``FlipError`` E1001, E1020 for a database that is not empty, and E1021 for
    a backup that does not hold together.
    """
    if not file.is_file():
        raise FlipError("E1021", file=file, problem="there is no such file")
    work = file.with_name(f".{file.name}.restoring")
    try:
        work.unlink(missing_ok=True)
        work.touch(mode=0o600)
        try:
            _copy_pages(file, work)
        except sqlite3.Error as error:
            raise FlipError("E1021", file=file, problem=str(error)) from error
        _check_pages(work, file)
        _bring_up_to_date(_address(work))
        return copy_all(_address(work), url)
    finally:
        for rest in (work, *(work.with_name(work.name + end) for end in ("-wal", "-shm", "-journal"))):
            rest.unlink(missing_ok=True)


def _bring_up_to_date(url: str) -> None:
    database.migrate(url)
    engine = database.open_engine(url)
    try:
        with database.writing(engine) as session:
            tallies.roll_everything(session)
    finally:
        engine.dispose()


def check(file: Path) -> dict[str, int]:
    """The rows by table of a backup whose pages and references hold together. Raises ``FlipError`` E1021, E1001."""
    _check_pages(file, file)
    engine = database.open_engine(_address(file))
    try:
        database.require_current_schema(engine)
        with _snapshot(engine) as connection:
            return {table.name: _count(table, connection) for table in _tables(connection)}
    finally:
        engine.dispose()


@contextlib.contextmanager
def _snapshot(engine: Engine) -> Iterator[Connection]:
    options = {"flip_reading": True, **database.snapshot_options(engine)}
    with engine.execution_options(**options).connect() as connection:
        yield connection


def _tables(connection: Connection) -> list[Table]:
    """The hub's tables, in the order of their references; all that the database has, or one would be left behind."""
    known = SQLModel.metadata.sorted_tables
    there = set(inspect(connection).get_table_names()) - {"alembic_version"}
    unknown = there ^ {table.name for table in known}
    if unknown:
        raise FlipError("E1021", file=database.shown(connection.engine.url), problem=f"it has other tables: {unknown}")
    return known


def _require_empty(connection: Connection, engine: Engine) -> None:
    for table in _tables(connection):
        rows = _count(table, connection)
        if rows:
            raise FlipError("E1020", target=database.shown(engine.url), holds=f"{table.name} has {rows} rows")


def _copy(table: Table, reader: Connection, writer: Connection) -> int:
    rows = 0
    keys = list(table.primary_key.columns)
    result = reader.execution_options(stream_results=True, yield_per=_ROWS).execute(select(table).order_by(*keys))
    for part in result.mappings().partitions(_ROWS):
        writer.execute(insert(table), [dict(row) for row in part])
        rows += len(part)
    if _count(table, writer) != rows:
        raise FlipError("E1021", file=table.name, problem=f"{rows} rows were read, and not all are there")
    return rows


def _continue_numbers(connection: Connection) -> None:
    """PostgreSQL counts row ids by itself: it has to go on after those that were given."""
    if connection.dialect.name != "postgresql":
        return
    for table in _tables(connection):
        for column in table.primary_key.columns:
            facts: Mapping[str, str] = {"table": table.name, "column": column.name}
            name = connection.execute(text("SELECT pg_get_serial_sequence(:table, :column)"), facts).scalar_one()
            highest = None if name is None else connection.execute(select(func.max(column))).scalar_one()
            if highest is not None:
                connection.execute(text("SELECT setval(:name, :highest)"), {"name": name, "highest": highest})


def _count(table: Table, connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _copy_pages(source: Path, target: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(f"file:{source.resolve()}?mode=ro", uri=True, timeout=_TIMEOUT_S)) as reader,
        contextlib.closing(sqlite3.connect(target, timeout=_TIMEOUT_S)) as writer,
    ):
        reader.backup(writer, pages=-1)


def _check_pages(file: Path, named: Path) -> None:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file.resolve()}?mode=ro", uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
            broken = connection.execute("PRAGMA foreign_key_check").fetchone()
    except sqlite3.Error as error:
        raise FlipError("E1021", file=named, problem=str(error)) from error
    if verdict != "ok" or broken is not None:
        raise FlipError("E1021", file=named, problem=verdict if verdict != "ok" else f"{broken[0]} refers to nothing")


def _address(file: Path) -> str:
    return f"sqlite:///{file.resolve()}"
