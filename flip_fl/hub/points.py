"""The points of a plot, from the database into arrays: a hundred thousand in the time of one redraw."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Lock
from uuid import UUID

import numpy as np
from sqlalchemy import func
from sqlmodel import Session, col, select

from flip_fl.dashboard.sampling import Curve, Integers, Numbers
from flip_fl.hub import database
from flip_fl.hub.blocks import Part, Site, unpack
from flip_fl.hub.curves import MetricRow, PlotKey, superseded
from flip_fl.hub.tables import FlMetric, FlMetricBlock, Model

_BLOCKS_AT_ONCE = 8


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

    It holds ``most_points`` in all, and of each plot the row up to which it was read. Rows of a model are only added,
    and in the order of their ids.
    """

    def __init__(self, most_points: int = 1_500_000) -> None:
        self._most_points = most_points
        self._lock = Lock()
        self._plots: OrderedDict[tuple[UUID, PlotKey], tuple[int, list[StoredCurve]]] = OrderedDict()

    def get(self, model_id: UUID, plot: PlotKey) -> tuple[int, list[StoredCurve]]:
        """The row up to which the plot is known, and what is known of it; none without."""
        with self._lock:
            if (model_id, plot) in self._plots:
                self._plots.move_to_end((model_id, plot))
            return self._plots.get((model_id, plot), (0, []))

    def put(self, model_id: UUID, plot: PlotKey, until: int, curves: list[StoredCurve]) -> None:
        """Keep a plot that was read up to the row ``until``, and let the oldest go."""
        with self._lock:
            self._plots[model_id, plot] = until, curves
            self._plots.move_to_end((model_id, plot))
            while self._plots and sum(len(one) for _, kept in self._plots.values() for one in kept) > self._most_points:
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
    until, known = (0, []) if cache is None else cache.get(model_id, plot)
    newest = session.exec(select(func.max(FlMetric.id)).where(col(FlMetric.model_id) == model_id)).one() or 0
    if newest < until:
        # The rule of retention has removed them.
        until, known = 0, []
    if newest > until:
        parts = read_parts(model_id, [plot], session, after=until)[plot]
        known = [merged(each) for each in _by_series(known, _curves(parts))]
        if cache is not None:
            cache.put(model_id, plot, newest, known)
    rows = superseded(model_id, session, plot) if old is None else old
    ids = np.asarray([row.id for row in rows], dtype=np.int64)
    return [_without(one, ids) for one in known] if len(ids) else known


def read_parts(model_id: UUID, plots: Sequence[PlotKey], session: Session, after: int = 0) -> dict[PlotKey, list[Part]]:
    """The points of ``plots`` that were stored after the row ``after``, in parts, as they came; the last is of rows
    that are in no block yet."""
    found: dict[PlotKey, list[Part]] = {plot: [] for plot in plots}
    blocks = session.exec(
        select(FlMetricBlock.body)
        .where(col(FlMetricBlock.model_id) == model_id, col(FlMetricBlock.last_id) > after)
        .order_by(col(FlMetricBlock.last_id))
        .execution_options(yield_per=_BLOCKS_AT_ONCE, **{database.BYTES: True})
    )
    for body in blocks:
        for plot, part in unpack(body, plots).items():
            found[plot].append(_detached(part.after(after)))
    counted_to = session.exec(select(Model.counted_to).where(col(Model.id) == model_id)).first() or 0
    for plot, part in _not_packed(model_id, max(after, counted_to), plots, session):
        found[plot].append(part)
    return found


def _detached(part: Part) -> Part:
    # A view would keep the whole block in memory.
    return Part(part.sites, part.series, part.ids.copy(), part.x.copy(), part.y.copy(), part.rounds.astype(np.int64))


def _not_packed(
    model_id: UUID, after: int, plots: Sequence[PlotKey], session: Session
) -> Iterator[tuple[PlotKey, Part]]:
    wanted = set(plots)
    rows = session.execute(
        select(  # type: ignore[call-overload]
            FlMetric.label,
            FlMetric.x_label,
            FlMetric.trust_id,
            FlMetric.fl_client_name,
            FlMetric.id,
            FlMetric.x_value,
            FlMetric.result,
            FlMetric.global_round,
        )
        .where(col(FlMetric.model_id) == model_id, col(FlMetric.id) > after)
        .where(col(FlMetric.label).in_({plot.label for plot in plots}))
        .order_by(col(FlMetric.id))
    )
    found: dict[PlotKey, list[tuple[Site, int, float, float, int]]] = {}
    for label, x_label, trust_id, slot, *numbers in rows:
        plot = PlotKey(label, x_label)
        if plot in wanted:
            found.setdefault(plot, []).append(((trust_id, slot), *numbers))
    for plot, points in found.items():
        of, ids, x, y, rounds = zip(*points, strict=True)
        numbers_of = {site: number for number, site in enumerate(dict.fromkeys(of))}
        series = np.array([numbers_of[site] for site in of], dtype=np.int64)
        yield plot, Part(list(numbers_of), series, *_arrays(ids, x, y, rounds))


def _arrays(ids: object, x: object, y: object, rounds: object) -> tuple[Integers, Numbers, Numbers, Integers]:
    return np.array(ids, np.int64), np.array(x, np.float64), np.array(y, np.float64), np.array(rounds, np.int64)


def _by_series(*curves: Sequence[StoredCurve]) -> Iterator[list[StoredCurve]]:
    found: dict[Site, list[StoredCurve]] = {}
    for one in (one for part in curves for one in part):
        found.setdefault((one.trust_id, one.slot), []).append(one)
    yield from found.values()


def _curves(parts: Sequence[Part]) -> list[StoredCurve]:
    """Each site's points of the parts of one plot, as they came."""
    if not parts:
        return []
    sites, series = _numbered(parts)
    ids, x, y, rounds = (
        np.concatenate(columns) for columns in zip(*((p.ids, p.x, p.y, p.rounds) for p in parts), strict=True)
    )
    order = np.argsort(series, kind="stable")
    ends = np.cumsum(np.bincount(series, minlength=len(sites)))
    found = []
    for (trust_id, slot), begin, end in zip(sites, [0, *ends[:-1]], ends, strict=True):
        mine = order[begin:end]
        if len(mine):
            found.append(StoredCurve(trust_id, slot, ids[mine], Curve(x[mine], y[mine], rounds[mine])))
    return found


def _numbered(parts: Sequence[Part]) -> tuple[list[Site], Integers]:
    """All sites of the parts, and for each point the position of its own."""
    numbers: dict[Site, int] = {}
    series = []
    for part in parts:
        places = np.array([numbers.setdefault(site, len(numbers)) for site in part.sites], dtype=np.int64)
        series.append(places[part.series])
    return list(numbers), np.concatenate(series)


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


def trust_points(
    model_id: UUID, plots: Sequence[PlotKey], session: Session
) -> Iterator[tuple[PlotKey, dict[UUID, tuple[Numbers, Numbers]]]]:
    """The x values and values that each trust measured of each plot, for an export, by x value, then as stored.

    They are read at once, and made ready plot by plot.
    """
    old = np.asarray([row.id for row in superseded(model_id, session)], dtype=np.int64)
    read = read_parts(model_id, plots, session)
    return ((plot, _of_trusts(read.pop(plot), old)) for plot in plots)


def _of_trusts(parts: Sequence[Part], old: Integers) -> dict[UUID, tuple[Numbers, Numbers]]:
    by_trust: dict[UUID, list[StoredCurve]] = {}
    for one in _curves(parts):
        by_trust.setdefault(one.trust_id, []).append(_without(one, old) if len(old) else one)
    whole = {trust: merged(each).curve for trust, each in by_trust.items()}
    return {trust: (curve.x, curve.y) for trust, curve in whole.items() if len(curve)}
