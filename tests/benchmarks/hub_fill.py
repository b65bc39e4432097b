"""Millions of stored events, made the quick way: rows as the hub writes them, ids in the order of time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Dialect, create_engine, text
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel

from flip_fl.hub import database
from flip_fl.hub.tables import EventLedger, FlMetric
from flip_fl.wire import new_event_id
from tests.benchmarks.hub_served import ServedHub
from tests.benchmarks.reporting_hubs import SLOT

# As many events a millisecond as a busy hub stores.
EVENTS_A_MS = 10
SQLITE_CHUNK = 500_000
POSTGRES_CHUNK = 1_000_000

_POSTGRES_ID = "(lpad(to_hex(:begun + n / :rate), 12, '0') || '7' || substr(md5(n::text), 1, 3) || 'a' || \
substr(md5(n::text), 4, 15))::uuid"
_POSTGRES_MODEL = "(CAST(:models AS uuid[]))[(1 + n % :count)::int]"
_POSTGRES = (
    f"INSERT INTO fl_event_ledger (model_id, event_id, applied) \
SELECT {_POSTGRES_MODEL}, {_POSTGRES_ID}, true FROM generate_series(CAST(:first AS bigint), :last) AS n",
    f"INSERT INTO fl_metrics (model_id, trust_id, fl_client_name, global_round, label, result, x_label, x_value, \
occurred_at) SELECT {_POSTGRES_MODEL}, :trust, :slot, 1, 'loss', n / 7.0, 'Step', n, :at \
FROM generate_series(CAST(:first AS bigint), :last) AS n",
)


def fill(hub: ServedHub, rows: int) -> None:
    """Add ``rows`` events, in turn of each of the hub's models; they end where now begins."""
    begun = datetime.now(UTC) - timedelta(milliseconds=rows / EVENTS_A_MS + 1)
    if make_url(hub.database_url).get_backend_name() == "sqlite":
        _fill_sqlite(hub, rows, begun)
    else:
        _fill_postgres(hub, rows, begun)


def _fill_postgres(hub: ServedHub, rows: int, begun: datetime) -> None:
    facts = {
        "models": list(hub.models),
        "count": len(hub.models),
        "trust": hub.trust,
        "slot": SLOT,
        "at": begun,
        "begun": int(begun.timestamp() * 1000),
        "rate": EVENTS_A_MS,
    }
    engine = create_engine(make_url(hub.database_url), isolation_level="AUTOCOMMIT")
    with contextlib.closing(engine.connect()) as connection:
        # Without a look at the model and the trust of each row.
        connection.execute(text("SET session_replication_role = replica"))
        for first in range(0, rows, POSTGRES_CHUNK):
            last = min(first + POSTGRES_CHUNK, rows) - 1
            for statement in _POSTGRES:
                connection.execute(text(statement), {**facts, "first": first, "last": last})
        # What the server would else do by itself in the middle of the measurement.
        connection.execute(text("VACUUM ANALYZE"))
        connection.execute(text("CHECKPOINT"))
    engine.dispose()


def _fill_sqlite(hub: ServedHub, rows: int, begun: datetime) -> None:
    engine = database.open_engine(hub.database_url)
    dialect = engine.dialect
    engine.dispose()
    ledger = {"model_id": hub.models[0], "event_id": new_event_id(), "applied": True}
    metric = {
        "model_id": hub.models[0],
        "trust_id": hub.trust,
        "fl_client_name": SLOT,
        "global_round": 1,
        "label": "loss",
        "result": 0.5,
        "x_label": "Step",
        "x_value": 1.0,
        "occurred_at": begun,
    }
    models = [_bound(EventLedger, "model_id", model, dialect) for model in hub.models]
    file = sqlite3.connect(str(make_url(hub.database_url).database), isolation_level=None)
    with contextlib.closing(file) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        for first in range(0, rows, SQLITE_CHUNK):
            numbers = range(first, min(first + SQLITE_CHUNK, rows))
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_insert(EventLedger, ledger), _ledger_rows(models, numbers, begun, dialect))
            connection.executemany(_insert(FlMetric, metric), _metric_rows(metric, models, numbers, dialect))
            connection.execute("COMMIT")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # What the system would else write back in the middle of the measurement, and let every commit wait for.
    os.sync()


def _ledger_rows(models: list[Any], numbers: range, begun: datetime, dialect: Dialect) -> Iterator[tuple[Any, ...]]:
    store = _binder(EventLedger, "event_id", dialect)
    applied = _bound(EventLedger, "applied", True, dialect)
    begun_ms = int(begun.timestamp() * 1000)
    for number in numbers:
        yield models[number % len(models)], store(new_event_id(begun_ms + number // EVENTS_A_MS)), applied


def _metric_rows(
    row: Mapping[str, Any], models: list[Any], numbers: range, dialect: Dialect
) -> Iterator[tuple[Any, ...]]:
    rest = [_bound(FlMetric, name, value, dialect) for name, value in row.items() if name != "model_id"]
    for number in numbers:
        yield models[number % len(models)], *rest


def _insert(table: type[SQLModel], row: Mapping[str, Any]) -> str:
    return f"INSERT INTO {table.__tablename__} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"


def _bound(table: type[SQLModel], column: str, value: Any, dialect: Dialect) -> Any:
    """``value`` as the table's own type writes it."""
    return _binder(table, column, dialect)(value)


def _binder(table: type[SQLModel], column: str, dialect: Dialect) -> Any:
    kind = SQLModel.metadata.tables[str(table.__tablename__)].c[column].type
    return kind.dialect_impl(dialect).bind_processor(dialect) or (lambda value: value)
