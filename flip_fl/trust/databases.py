"""Which database a trust has."""

from __future__ import annotations

from flip_fl.trust.address import parse
from flip_fl.trust.selection import QUERY_TIMEOUT_S, Database


def open_database(url: str, *, timeout_s: float = QUERY_TIMEOUT_S) -> Database:
    """The database at ``url``; connects to nothing yet. Raises ``FlipError`` E0950 for an address that is none.

    ``timeout_s``: the longest that a query may take.
    """
    address = parse(url)
    if address.main is not None:
        from flip_fl.trust.sqlite import SqliteDatabase

        return SqliteDatabase(address, timeout_s=timeout_s)
    from flip_fl.trust.postgres import PostgresDatabase

    return PostgresDatabase(address, timeout_s=timeout_s)
