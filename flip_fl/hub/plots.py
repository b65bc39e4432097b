"""A model's plots: which there are, and one of them as it is drawn."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic_core import to_json
from sqlalchemy import func
from sqlmodel import Session, col, select

from flip_fl.dashboard.sampling import Curve, Sampled, sampled, span
from flip_fl.dashboard.story import Plot, Point, Series
from flip_fl.hub.curves import MetricRow, PlotKey, SeriesNames, not_counted, series_names, superseded
from flip_fl.hub.numbers import NumberTexts, objects
from flip_fl.hub.points import PlotCache, StoredCurve, merged, stored_curves
from flip_fl.hub.tables import FlLog, FlMetric, FlMetricSeries, Trust
from flip_fl.values import DEFAULT_X_LABEL, natural_key

# How a site reports a number that JSON cannot carry.
_NOT_FINITE = re.compile(r"^metric '(?P<label>.+?)' of .* is (?:nan|inf|-inf): not stored")

# A slot, and the trust that held it then.
_SeriesKey = tuple[str, UUID]


class ListedPlot(BaseModel):
    """A plot that is there, and how many series and points it has."""

    model_config = ConfigDict(frozen=True)

    label: str
    x_label: str
    series: int
    points: int


@dataclass(frozen=True)
class Refused:
    """A value that was not finite: at which slot, of which metric, in which round."""

    slot: str
    label: str
    round: int
    trust_id: UUID


@dataclass(frozen=True)
class StoredSeries:
    """How many points one slot has of a plot, and when it measured the newest."""

    plot: PlotKey
    trust_id: UUID
    slot: str | None
    trust_name: str
    trust_code: str | None
    points: int
    newest: datetime


def refused_label(text: str | None) -> str | None:
    """The metric that a failed log row says was not finite; None if it is about something else."""
    found = _NOT_FINITE.match(text or "")
    return found["label"] if found else None


def refused_values(model_id: UUID, session: Session) -> list[Refused]:
    """Every value that was refused as not finite, in the order in which that was told."""
    rows = session.exec(
        select(FlLog.fl_client_name, FlLog.log, FlLog.global_round, FlLog.trust_id)
        .where(
            col(FlLog.model_id) == model_id,
            # As the index of failures is spelt: one of `IS 0` is not used.
            ~col(FlLog.success),
            col(FlLog.log).startswith("metric '"),
            col(FlLog.fl_client_name).is_not(None),
            col(FlLog.trust_id).is_not(None),
            col(FlLog.global_round).is_not(None),
        )
        .order_by(col(FlLog.id))
    )
    found = ((slot, refused_label(log), number, trust_id) for slot, log, number, trust_id in rows)
    return [Refused(slot, label, number, trust) for slot, label, number, trust in found if label]  # type: ignore[arg-type]


def stored_series(model_id: UUID, session: Session) -> list[StoredSeries]:
    """What was measured, counted; points that do not count are not."""
    old = Counter((row.label, row.x_label, row.trust_id, row.slot) for row in superseded(model_id, session))
    counted: dict[tuple[str, str, UUID, str | None], tuple[int, datetime]] = {}
    for label, x_label, trust_id, slot, points, newest in _counts(model_id, session):
        before, last = counted.get((label, x_label, trust_id, slot), (0, newest))
        counted[label, x_label, trust_id, slot] = (before + points, max(last, newest))
    trusts = session.exec(
        select(Trust.id, Trust.name, Trust.code).where(col(Trust.id).in_({key[2] for key in counted}))
    )
    names = {trust_id: (name, code) for trust_id, name, code in trusts}
    return [
        StoredSeries(PlotKey(key[0], key[1]), key[2], key[3], *names[key[2]], points - old[key], newest)
        for key, (points, newest) in counted.items()
    ]


def _counts(model_id: UUID, session: Session) -> Iterator[tuple[str, str, UUID, str | None, int, datetime]]:
    """What was counted, and what came since."""
    columns = (FlMetricSeries.label, FlMetricSeries.x_label, FlMetricSeries.trust_id, FlMetricSeries.fl_client_name)
    rolled = session.execute(
        select(*columns, FlMetricSeries.points, FlMetricSeries.newest).where(col(FlMetricSeries.model_id) == model_id)  # type: ignore[call-overload]
    )
    for label, x_label, trust_id, slot, points, newest in rolled:
        yield label, x_label, trust_id, slot or None, points, newest
    keys = (FlMetric.label, FlMetric.x_label, FlMetric.trust_id, FlMetric.fl_client_name)
    new = session.execute(
        select(*keys, func.count(), func.max(FlMetric.occurred_at))  # type: ignore[call-overload]
        .where(not_counted(model_id))
        .group_by(*keys)
    )
    yield from (tuple(row) for row in new)


def list_plots(model_id: UUID, session: Session) -> list[ListedPlot]:
    """Every plot in order of label and axis, with how many series and points it has; refused values count."""
    found = _counted(stored_series(model_id, session), refused_values(model_id, session))
    return [
        ListedPlot(label=label, x_label=x_label, series=len(counts), points=counts.total())
        for (label, x_label), counts in found
    ]


def empty_plots(series: Iterable[StoredSeries], refused: Iterable[Refused], names: SeriesNames) -> list[Plot]:
    """The plots without their points, each series with how many it has."""
    return [
        Plot(
            label=label,
            x_label=x_label,
            series=[
                Series(slot=slot, name=names.of(trust_id, slot), points=[], total=count)
                for (slot, trust_id), count in sorted(counts.items(), key=_in_natural_order)
            ],
        )
        for (label, x_label), counts in _counted(series, refused)
    ]


def _counted(
    series: Iterable[StoredSeries], refused: Iterable[Refused]
) -> list[tuple[tuple[str, str], Counter[_SeriesKey]]]:
    points: dict[tuple[str, str], Counter[_SeriesKey]] = {}
    for one in series:
        counts = points.setdefault((one.plot.label, one.plot.x_label), Counter())
        counts[one.slot or str(one.trust_id), one.trust_id] += one.points
    for each in refused:
        points.setdefault((each.label, DEFAULT_X_LABEL), Counter())[each.slot, each.trust_id] += 1
    return sorted(points.items())


def plot_json(
    model_id: UUID,
    plot: PlotKey,
    session: Session,
    *,
    points: int,
    low: float | None = None,
    high: float | None = None,
    cache: PlotCache | None = None,
) -> bytes | None:
    """A ``Plot`` as JSON, of each series at most ``points`` (see ``dashboard.sampling``); None without any.

    With bounds only what lies between them, and one point on either side; ``total`` counts these, ``before`` and
    ``after`` the others.
    """
    names, before = series_names(model_id, session), superseded(model_id, session, plot)
    curves = {
        (one.slot or str(one.trust_id), one.trust_id): one
        for one in stored_curves(model_id, plot, session, cache, old=before)
        if len(one)
    }
    if plot.x_label == DEFAULT_X_LABEL:
        _add_refused(curves, [each for each in refused_values(model_id, session) if each.label == plot.label])
    if not curves:
        return None
    old = _points_by_series(before)
    rounds = np.unique(np.concatenate([one.curve.rounds for one in curves.values()]))
    lowest, highest = -np.inf if low is None else low, np.inf if high is None else high
    texts = NumberTexts()
    series = []
    for key, one in sorted(curves.items(), key=_in_natural_order):
        part = span(one.curve, lowest, highest)
        drawn = sampled(one.curve.part(part), rounds, points)
        series.append(_series_json(key[0], one, names, part, drawn, old.get(key, []), texts))
    return b'{"label":%b,"x_label":%b,"series":[%b]}' % (to_json(plot.label), to_json(plot.x_label), b",".join(series))


def _series_json(
    slot: str,
    one: StoredCurve,
    names: SeriesNames,
    part: slice,
    drawn: Sampled,
    earlier: Sequence[Point],
    texts: NumberTexts,
) -> bytes:
    points = objects(texts, x=drawn.curve.x, y=drawn.curve.y, round=drawn.curve.rounds)
    return b'{"slot":%b,"name":%b,"points":[%b],"earlier":%b,"total":%d,"breaks":%b,"before":%d,"after":%d}' % (
        to_json(slot),
        to_json(names.of(one.trust_id, one.slot)),
        points,
        to_json(earlier),
        drawn.total,
        to_json(drawn.breaks.tolist()),
        part.start,
        len(one.curve) - part.stop,
    )


def _add_refused(curves: dict[_SeriesKey, StoredCurve], refused: Iterable[Refused]) -> None:
    by_series: dict[_SeriesKey, list[int]] = {}
    for each in refused:
        by_series.setdefault((each.slot, each.trust_id), []).append(each.round)
    for (slot, trust_id), numbers in by_series.items():
        rounds = np.asarray(numbers, dtype=np.int64)
        # Behind what was stored at the same place.
        ids = np.full(len(rounds), np.iinfo(np.int64).max)
        marks = StoredCurve(trust_id, slot, ids, Curve(rounds.astype(np.float64), np.full(len(rounds), np.nan), rounds))
        known = curves.get((slot, trust_id))
        curves[slot, trust_id] = merged([marks] if known is None else [known, marks])


def story_plots(
    metrics: Sequence[MetricRow], refused: Iterable[Refused], names: SeriesNames, old: Iterable[MetricRow] = ()
) -> list[Plot]:
    """The plots with all their points, for a story that is kept; ``old`` are points that do not count any more."""
    by_plot: dict[tuple[str, str], list[MetricRow]] = {}
    for metric in metrics:
        by_plot.setdefault((metric.label, metric.x_label), []).append(metric)
    plots = {where: _points_by_series(rows) for where, rows in by_plot.items()}
    earlier: dict[tuple[str, str], list[MetricRow]] = {}
    for metric in old:
        earlier.setdefault((metric.label, metric.x_label), []).append(metric)
    before = {where: _points_by_series(rows) for where, rows in earlier.items()}
    for each in refused:
        series = plots.setdefault((each.label, DEFAULT_X_LABEL), {})
        points = series.setdefault((each.slot, each.trust_id), [])
        points.append(Point(x=float(each.round), y=None, round=each.round))
        points.sort(key=lambda point: point.x)
    return [
        Plot(
            label=label,
            x_label=x_label,
            series=[
                Series(
                    slot=slot,
                    name=names.of(trust_id, slot),
                    points=points,
                    earlier=before.get((label, x_label), {}).get((slot, trust_id), []),
                )
                for (slot, trust_id), points in sorted(series.items(), key=_in_natural_order)
            ],
        )
        for (label, x_label), series in sorted(plots.items())
    ]


def _points_by_series(metrics: Iterable[MetricRow]) -> dict[_SeriesKey, list[Point]]:
    found: dict[_SeriesKey, list[Point]] = {}
    for metric in metrics:
        point = Point(x=metric.x_value, y=metric.result, round=metric.global_round)
        found.setdefault((metric.slot or str(metric.trust_id), metric.trust_id), []).append(point)
    return found


def _in_natural_order(item: tuple[_SeriesKey, object]) -> tuple[object, str]:
    (slot, trust_id), _ = item
    return natural_key(slot), str(trust_id)
