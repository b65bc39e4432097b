"""The points of one plot, straight from the database into arrays: a hundred thousand in the time of one redraw."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlmodel import Session

from flip_fl.dashboard.sampling import Curve, Integers
from flip_fl.hub.curves import PlotKey, superseded

_OF_PLOT = "FROM fl_metrics WHERE model_id = :model AND label = :label AND x_label = :x_label"
# A number as its eight bytes: nothing is written as text and read again. Network order, whatever the machine.
_NUMBERS = ("int8send(id)", "float8send(x_value)", "float8send(result)", "int8send(global_round)")
_SENT = ", ".join(f"string_agg({number}, CAST('' AS bytea))" for number in _NUMBERS)
_POSTGRESQL = text(f"SELECT trust_id, fl_client_name, {_SENT} {_OF_PLOT} GROUP BY trust_id, fl_client_name")
_SQLITE = text(f"SELECT trust_id, fl_client_name, id, x_value, result, global_round {_OF_PLOT} ORDER BY id")
_ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class StoredCurve:
    """What one slot of one trust measured of a plot, by x value, then as it was stored; ``ids`` of its rows."""

    trust_id: UUID
    slot: str | None
    ids: Integers
    curve: Curve

    def __len__(self) -> int:
        return len(self.curve)


def stored_curves(model_id: UUID, plot: PlotKey, session: Session) -> list[StoredCurve]:
    """The curves of a plot; none if nothing was measured of it. Points that do not count are left out."""
    old = np.asarray([row.id for row in superseded(model_id, session, plot)], dtype=np.int64)
    postgres = session.get_bind().dialect.name == "postgresql"
    read = _read_postgresql if postgres else _read_sqlite
    found = []
    for trust_id, slot, ids, curve in read(model_id, plot, session):
        if len(old):
            kept = np.flatnonzero(~np.isin(ids, old))
            ids, curve = ids[kept], curve.take(kept)
        found.append(in_order(StoredCurve(trust_id, slot, ids, curve)))
    return found


def in_order(one: StoredCurve) -> StoredCurve:
    """The same points by x value, then as they were stored."""
    order = np.lexsort((one.ids, one.curve.x))
    return StoredCurve(one.trust_id, one.slot, one.ids[order], one.curve.take(order))


def merged(parts: list[StoredCurve]) -> StoredCurve:
    """Curves of one trust, which held several slots in turn, as one."""
    if len(parts) == 1:
        return parts[0]
    columns = [
        np.concatenate(arrays)
        for arrays in zip(*((p.ids, p.curve.x, p.curve.y, p.curve.rounds) for p in parts), strict=True)
    ]
    return in_order(StoredCurve(parts[0].trust_id, parts[-1].slot, columns[0], Curve(*columns[1:])))


_Part = tuple[UUID, str | None, Integers, Curve]


def _read_postgresql(model_id: UUID, plot: PlotKey, session: Session) -> Iterable[_Part]:
    for trust_id, slot, ids, x, y, rounds in session.execute(_POSTGRESQL, _facts(model_id, plot)):
        curve = Curve(_floats(x), _floats(y), _integers(rounds))
        yield trust_id, slot, _integers(ids), curve


def _read_sqlite(model_id: UUID, plot: PlotKey, session: Session) -> Iterable[_Part]:
    cursor = session.connection().connection.cursor()
    try:
        cursor.execute(_SQLITE.text, _facts(model_id.hex, plot))
        # Row by row they would take ten times the room of their numbers.
        numbers: dict[tuple[str, str | None], int] = {}
        parts: list[tuple[Any, ...]] = []
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            trusts, slots, ids, xs, ys, rounds = zip(*rows, strict=True)
            series = [numbers.setdefault(key, len(numbers)) for key in zip(trusts, slots, strict=True)]
            kinds = (np.int64, np.int64, np.float64, np.float64, np.int64)
            columns = (series, ids, xs, ys, rounds)
            parts.append(tuple(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))
    finally:
        cursor.close()
    if not parts:
        return
    series_of, all_ids, x, y, all_rounds = (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    order = np.argsort(series_of, kind="stable")
    ends = np.cumsum(np.bincount(series_of))
    for (trust, slot), end, begin in zip(numbers, ends, [0, *ends[:-1]], strict=True):
        mine = order[begin:end]
        yield UUID(trust), slot, all_ids[mine], Curve(x[mine], y[mine], all_rounds[mine])


def _facts(model_id: object, plot: PlotKey) -> dict[str, object]:
    return {"model": model_id, "label": plot.label, "x_label": plot.x_label}


def _floats(raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=">f8").astype(np.float64)


def _integers(raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=">i8").astype(np.int64)
