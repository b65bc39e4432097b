"""How many points each series has, and which sites have measured a round's model: kept while metrics are stored.

To count millions of rows for the list of plots would take seconds each time; to count a batch takes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlmodel import Session

from flip_fl.hub.tables import as_utc
from flip_fl.values import Task

_SERIES = ("model_id", "label", "x_label", "trust_id", "fl_client_name")
_SERIES_INTO = (
    f"INSERT INTO fl_metric_series ({', '.join(_SERIES)}, points, newest) {{source}} "
    f"ON CONFLICT ({', '.join(_SERIES)}) DO UPDATE SET points = fl_metric_series.points + excluded.points, "
    "newest = CASE WHEN excluded.newest > fl_metric_series.newest THEN excluded.newest ELSE fl_metric_series.newest END"
)
_SCORES_INTO = (
    "INSERT INTO fl_round_scores (model_id, global_round, fl_client_name) {source} "
    "ON CONFLICT (model_id, global_round, fl_client_name) DO NOTHING"
)
_FROM_JSON = "SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS given({columns})"
_STATEMENTS: Mapping[str, tuple[TextClause, TextClause]] = {
    "postgresql": (
        text(
            _SERIES_INTO.format(
                source=_FROM_JSON.format(
                    columns="model_id uuid, label text, x_label text, trust_id uuid, fl_client_name text, "
                    "points bigint, newest timestamptz"
                )
            )
        ),
        text(
            _SCORES_INTO.format(
                source=_FROM_JSON.format(columns="model_id uuid, global_round integer, fl_client_name text")
            )
        ),
    ),
    "sqlite": (
        text(
            _SERIES_INTO.format(
                source="VALUES (:model_id, :label, :x_label, :trust_id, :fl_client_name, :points, :newest)"
            )
        ),
        text(_SCORES_INTO.format(source="VALUES (:model_id, :global_round, :fl_client_name)")),
    ),
}


def tally(rows: Sequence[Mapping[str, Any]], session: Session) -> None:
    """Count rows of ``intake.metric_row`` that are stored in this transaction. Does not commit."""
    dialect = session.get_bind().dialect.name
    into_series, into_scores = _STATEMENTS[dialect]
    spell = _for_sqlite if dialect == "sqlite" else _for_postgresql
    series: dict[tuple[Any, ...], tuple[int, datetime]] = {}
    scores: set[tuple[Any, ...]] = set()
    for row in rows:
        key = (row["model_id"], row["label"], row["x_label"], row["trust_id"], row["fl_client_name"] or "")
        count, newest = series.get(key, (0, row["occurred_at"]))
        series[key] = (count + 1, max(newest, row["occurred_at"]))
        if row["task"] == Task.VALIDATE and row["fl_client_name"]:
            scores.add((row["model_id"], row["global_round"], row["fl_client_name"]))
    # In one order, so that two writers never wait for each other.
    counted = [
        dict(zip((*_SERIES, "points", "newest"), map(spell, (*key, *series[key])), strict=True))
        for key in sorted(series, key=str)
    ]
    scored = [
        dict(zip(("model_id", "global_round", "fl_client_name"), map(spell, key), strict=True))
        for key in sorted(scores, key=str)
    ]
    _store(into_series, counted, session, dialect)
    _store(into_scores, scored, session, dialect)


def _store(statement: TextClause, rows: Iterable[Mapping[str, Any]], session: Session, dialect: str) -> None:
    given = list(rows)
    if given and dialect == "sqlite":
        session.execute(statement, given)
    elif given:
        session.execute(statement, {"rows": json.dumps(given)})


def _for_postgresql(value: object) -> object:
    if isinstance(value, datetime):
        return as_utc(value).isoformat()
    return str(value) if isinstance(value, UUID) else value


def _for_sqlite(value: object) -> object:
    # As the types `UtcDateTime` and `Uuid` write them.
    if isinstance(value, datetime):
        return as_utc(value).strftime("%Y-%m-%d %H:%M:%S.%f")
    return value.hex if isinstance(value, UUID) else value
