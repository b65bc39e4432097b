"""Rows that are stored once: one statement that both databases know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel


def insert_once(
    table: type[SQLModel], rows: Sequence[Mapping[str, Any]], returning: str, session: Session
) -> list[Any]:
    """Insert the ``rows`` whose key is not there yet (of equal keys the first) and flush.

    Returns the column ``returning`` of those that were inserted. Every row holds the same columns; what the table
    itself fills in is not filled in here. Does not commit.
    """
    if not rows:
        return []
    target: Table = SQLModel.metadata.tables[str(table.__tablename__)]
    insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
    statement = insert(target).values(list(rows)).on_conflict_do_nothing().returning(target.c[returning])
    return list(session.execute(statement).scalars())
