"""Many metrics into the table at once, as each database takes them with little work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from sqlalchemy import Table, insert, text
from sqlmodel import Session, SQLModel

from flip_fl.hub.tables import FlMetric, as_utc

# The columns of a row of ``intake.metric_row``, and what PostgreSQL calls their types.
_COLUMNS = {
    "model_id": "uuid",
    "trust_id": "uuid",
    "fl_client_name": "text",
    "global_round": "integer",
    "label": "text",
    "result": "float8",
    "x_label": "text",
    "x_value": "float8",
    "task": "text",
    "stage": "text",
    "occurred_at": "timestamptz",
}
# One statement with one parameter: a driver that sends a row at a time costs it and the server more than the rows do.
_POSTGRESQL = text(
    f"INSERT INTO fl_metrics ({', '.join(_COLUMNS)}) "
    f"SELECT {', '.join(_COLUMNS)} FROM json_to_recordset(CAST(:rows AS json)) "
    f"AS given({', '.join(f'{name} {kind}' for name, kind in _COLUMNS.items())})"
)
_TABLE: Table = SQLModel.metadata.tables[str(FlMetric.__tablename__)]


def insert_metrics(rows: Sequence[Mapping[str, Any]], session: Session) -> None:
    """Insert rows of ``intake.metric_row`` in their order. Does not commit; raises what the database raises."""
    if not rows:
        return
    if session.get_bind().dialect.name == "postgresql":
        spelt = [{**row, "occurred_at": as_utc(row["occurred_at"])} for row in rows]
        session.execute(_POSTGRESQL, {"rows": to_json(spelt).decode()})
    else:
        # Past the mapping, which would cost more than the database; and not through text, which SQLite reads a last
        # digit wrong now and then.
        session.execute(insert(_TABLE), [dict(row) for row in rows])
