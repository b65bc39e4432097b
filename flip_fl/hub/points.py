"""The points of one plot, straight from the database into arrays: a hundred thousand in the time of one redraw."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from threading import Lock
from typing import Any
from uuid import UUID

import numpy as np
from sqlalchemy import text
from sqlmodel import Session

from flip_fl.dashboard.sampling import Curve, Integers, Numbers
from flip_fl.hub.curves import MetricRow, PlotKey, superseded

_OF_PLOT = "FROM fl_metrics WHERE model_id = :model AND label = :label AND x_label = :x_label AND id > :after"
# Enough to sort the rows of a big plot in memory; given back with the transaction.
_ROOM = text("SET LOCAL work_mem = '32MB'")
# A number as its eight bytes: nothing is written as text and read again. Network order, whatever the machine.
_NUMBERS = ("int8send(id)", "float8send(x_value)", "float8send(result)", "int8send(global_round)")
_SENT = ", ".join(f"string_agg({number}, CAST('' AS bytea))" for number in _NUMBERS)
_POSTGRESQL = text(f"SELECT trust_id, fl_client_name, {_SENT} {_OF_PLOT} GROUP BY trust_id, fl_client_name")
_SQLITE = text(f"SELECT trust_id, fl_client_name, id, x_value, result, global_round {_OF_PLOT} ORDER BY id")
_POSTGRESQL_TRUSTS = text(
    "SELECT trust_id, string_agg(int8send(id), CAST('' AS bytea)), string_agg(float8send(x_value), CAST('' AS bytea)), "
    f"string_agg(float8send(result), CAST('' AS bytea)) {_OF_PLOT} GROUP BY trust_id"
)
_SQLITE_TRUSTS = text(f"SELECT trust_id, x_value, result {_OF_PLOT} ORDER BY id")
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


class PlotCache:
    """The newest plots that were read, so that one that is looked at again costs only what came since.

    It holds ``most_points`` in all. Rows of a model are only added, and in the order of their ids.
    """

    def __init__(self, most_points: int = 1_500_000) -> None:
        self._most_points = most_points
        self._lock = Lock()
        self._plots: OrderedDict[tuple[UUID, PlotKey], list[StoredCurve]] = OrderedDict()

    def get(self, model_id: UUID, plot: PlotKey) -> list[StoredCurve]:
        """What is known of the plot; none without."""
        with self._lock:
            if (model_id, plot) in self._plots:
                self._plots.move_to_end((model_id, plot))
            return self._plots.get((model_id, plot), [])

    def put(self, model_id: UUID, plot: PlotKey, curves: list[StoredCurve]) -> None:
        """Keep a plot, and let the oldest go."""
        with self._lock:
            self._plots[model_id, plot] = curves
            self._plots.move_to_end((model_id, plot))
            while self._plots and sum(len(one) for kept in self._plots.values() for one in kept) > self._most_points:
                self._plots.popitem(last=False)


def stored_curves(
    model_id: UUID,
    plot: PlotKey,
    session: Session,
    cache: PlotCache | None = None,
    old: Sequence[MetricRow] | None = None,
) -> list[StoredCurve]:
    """The curves of a plot; none if nothing was measured of it. Points that do not count are left out.

    ``old``: what ``superseded`` says of the plot, where that is known already.
    """
    known = [] if cache is None else cache.get(model_id, plot)
    postgres = session.get_bind().dialect.name == "postgresql"
    after = max((int(one.ids.max()) for one in known), default=0)
    new = list((_read_postgresql if postgres else _read_sqlite)(model_id, plot, after, session))
    if new:
        parts: dict[tuple[UUID, str | None], list[StoredCurve]] = {}
        for one in [*known, *new]:
            parts.setdefault((one.trust_id, one.slot), []).append(one)
        known = [merged(each) for each in parts.values()]
        if cache is not None:
            cache.put(model_id, plot, known)
    rows = superseded(model_id, session, plot) if old is None else old
    ids = np.asarray([row.id for row in rows], dtype=np.int64)
    return [_without(one, ids) for one in known] if len(ids) else known


def _without(one: StoredCurve, old: Integers) -> StoredCurve:
    kept = np.flatnonzero(~np.isin(one.ids, old))
    return StoredCurve(one.trust_id, one.slot, one.ids[kept], one.curve.take(kept))


def in_order(one: StoredCurve) -> StoredCurve:
    """The same points by x value, then as they were stored."""
    x, ids = one.curve.x, one.ids
    if np.all((x[1:] > x[:-1]) | ((x[1:] == x[:-1]) & (ids[1:] > ids[:-1]))):
        return one
    order = np.lexsort((one.ids, one.curve.x))
    return StoredCurve(one.trust_id, one.slot, one.ids[order], one.curve.take(order))


def merged(parts: list[StoredCurve]) -> StoredCurve:
    """Several parts of a curve as one, in order."""
    if len(parts) == 1:
        return in_order(parts[0])
    columns = [
        np.concatenate(arrays)
        for arrays in zip(*((p.ids, p.curve.x, p.curve.y, p.curve.rounds) for p in parts), strict=True)
    ]
    return in_order(StoredCurve(parts[0].trust_id, parts[-1].slot, columns[0], Curve(*columns[1:])))


def _read_postgresql(model_id: UUID, plot: PlotKey, after: int, session: Session) -> Iterable[StoredCurve]:
    session.execute(_ROOM)
    for trust_id, slot, ids, x, y, rounds in session.execute(_POSTGRESQL, _facts(model_id, plot, after)):
        yield StoredCurve(trust_id, slot, _integers(ids), Curve(_floats(x), _floats(y), _integers(rounds)))


def _read_sqlite(model_id: UUID, plot: PlotKey, after: int, session: Session) -> Iterable[StoredCurve]:
    # Row by row they would take ten times the room of their numbers.
    numbers: dict[tuple[str, str | None], int] = {}
    parts: list[tuple[Any, ...]] = []
    kinds = (np.int64, np.int64, np.float64, np.float64, np.int64)
    with closing(session.connection().connection.cursor()) as cursor:
        cursor.execute(_SQLITE.text, _facts(model_id.hex, plot, after))
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            trusts, slots, *columns = zip(*rows, strict=True)
            series = [numbers.setdefault(key, len(numbers)) for key in zip(trusts, slots, strict=True)]
            all_columns = (series, *columns)
            parts.append(tuple(np.array(column, dtype=kind) for column, kind in zip(all_columns, kinds, strict=True)))
    if not parts:
        return
    series_of, all_ids, x, y, all_rounds = (np.concatenate(column) for column in zip(*parts, strict=True))
    parts.clear()
    order = np.argsort(series_of, kind="stable")
    ends = np.cumsum(np.bincount(series_of))
    for (trust, slot), end, begin in zip(numbers, ends, [0, *ends[:-1]], strict=True):
        mine = order[begin:end]
        yield StoredCurve(UUID(trust), slot, all_ids[mine], Curve(x[mine], y[mine], all_rounds[mine]))


def trust_points(model_id: UUID, plot: PlotKey, session: Session) -> dict[UUID, tuple[Numbers, Numbers]]:
    """The x values and values that each trust measured of a plot, for an export: no more of a row is read."""
    if superseded(model_id, session, plot):
        return _of_trusts(stored_curves(model_id, plot, session))
    if session.get_bind().dialect.name == "postgresql":
        session.execute(_ROOM)
        sent = session.execute(_POSTGRESQL_TRUSTS, _facts(model_id, plot, 0))
        found = {trust: (_integers(ids), _floats(x), _floats(y)) for trust, ids, x, y in sent}
        orders = {trust: np.lexsort((ids, x)) for trust, (ids, x, _) in found.items()}
        return {trust: (x[orders[trust]], y[orders[trust]]) for trust, (_, x, y) in found.items()}
    numbers = _Numbers()
    parts = []
    with closing(session.connection().connection.cursor()) as cursor:
        cursor.execute(_SQLITE_TRUSTS.text, _facts(model_id.hex, plot, 0))
        while rows := cursor.fetchmany(_ROWS_AT_ONCE):
            trusts, xs, ys = zip(*rows, strict=True)
            of = np.array([numbers[trust] for trust in trusts], dtype=np.int64)
            parts.append((of, np.array(xs, dtype=np.float64), np.array(ys, dtype=np.float64)))
    if not parts:
        return {}
    of, x, y = (np.concatenate(column) for column in zip(*parts, strict=True))
    # Stable: points at one place stay as they were stored.
    order = np.lexsort((x, of))
    splits = np.cumsum(np.bincount(of))[:-1]
    curves = zip(np.split(x[order], splits), np.split(y[order], splits), strict=True)
    return {UUID(trust): curve for trust, curve in zip(numbers, curves, strict=True)}


class _Numbers(dict[str, int]):
    """Numbers for texts, in the order in which these come."""

    def __missing__(self, text: str) -> int:
        return self.setdefault(text, len(self))


def _of_trusts(curves: Iterable[StoredCurve]) -> dict[UUID, tuple[Numbers, Numbers]]:
    parts: dict[UUID, list[StoredCurve]] = {}
    for one in curves:
        parts.setdefault(one.trust_id, []).append(one)
    whole = {trust: merged(each).curve for trust, each in parts.items()}
    return {trust: (curve.x, curve.y) for trust, curve in whole.items() if len(curve)}


def _facts(model_id: object, plot: PlotKey, after: int) -> dict[str, object]:
    return {"model": model_id, "label": plot.label, "x_label": plot.x_label, "after": after}


def _floats(raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=">f8").astype(np.float64)


def _integers(raw: bytes) -> Any:
    return np.frombuffer(raw, dtype=">i8").astype(np.int64)
