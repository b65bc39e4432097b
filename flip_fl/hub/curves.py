"""A model's metrics as plots: one plot per (label, x-axis), one series per trust."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import ColumnElement, func
from sqlmodel import Session, col, select

from flip_fl.hub.tables import STARTS, FlLog, FlMetric, FlMetricBlock, FlRoundScore, Model, ModelTrustIntersect, Trust
from flip_fl.hub.words import stage_of
from flip_fl.values import Task, natural_key


class IMetricPoint(BaseModel):
    """One point of a curve."""

    model_config = ConfigDict(frozen=True)

    xValue: float
    yValue: float


class IMetricSeries(BaseModel):
    """One trust's curve."""

    model_config = ConfigDict(frozen=True)

    seriesLabel: str
    data: list[IMetricPoint]


class IModelMetrics(BaseModel):
    """One plot: the metric, its axis, and a series per trust."""

    model_config = ConfigDict(frozen=True)

    yLabel: str
    xLabel: str
    metrics: list[IMetricSeries]


@dataclass(frozen=True)
class MetricRow:
    """One stored metric with its trust's names, as every reader of curves needs it."""

    id: int
    label: str
    x_label: str
    x_value: float
    result: float
    global_round: int
    trust_id: UUID
    trust_name: str
    trust_code: str | None
    slot: str | None
    at: datetime
    task: str | None
    stage: str | None

    @property
    def coordinate(self) -> tuple[object, ...]:
        """What a site measures once in a round."""
        place = (self.label, self.x_label, self.x_value, self.global_round)
        return (self.trust_id, self.slot, *place, self.task, self.stage)


@dataclass(frozen=True)
class PlotKey:
    """What a plot is identified by."""

    label: str
    x_label: str

    def condition(self) -> ColumnElement[bool]:
        """Of the rows of ``fl_metrics``, which belong to it."""
        return (col(FlMetric.label) == self.label) & (col(FlMetric.x_label) == self.x_label)


@dataclass(frozen=True)
class SeriesNames:
    """What people call the trusts of a model: by code, else name, else id; with the slot where two share that."""

    by_trust: Mapping[UUID, str]
    shared: Collection[str]

    def of(self, trust_id: UUID, slot: str | None) -> str:
        """The label of a series of this trust."""
        name = self.by_trust.get(trust_id, str(trust_id))
        return f"{name} ({slot or trust_id})" if name in self.shared else name


def series_names(model_id: UUID, session: Session) -> SeriesNames:
    """The names of the hub's trusts, told apart where two that take part in the model have the same."""
    rows = session.exec(
        select(Trust.id, Trust.name, Trust.code, ModelTrustIntersect.trust_id).outerjoin(
            ModelTrustIntersect,
            (col(ModelTrustIntersect.trust_id) == col(Trust.id)) & (col(ModelTrustIntersect.model_id) == model_id),
        )
    ).all()
    names = {trust_id: code or name or str(trust_id) for trust_id, name, code, _ in rows}
    counts = Counter(names[trust_id] for trust_id, _, _, part in rows if part is not None)
    return SeriesNames(names, {name for name, count in counts.items() if count > 1})


def metric_rows(model_id: UUID, session: Session) -> list[MetricRow]:
    """The model's metrics in stable x order, by x value, then as they were stored; without those of ``superseded``."""
    rows = _stored(session, col(FlMetric.model_id) == model_id)
    old = {row.id for row in superseded(model_id, session)}
    return [row for row in rows if row.id not in old] if old else rows


def superseded(model_id: UUID, session: Session, plot: PlotKey | None = None) -> list[MetricRow]:
    """Stored metrics that do not count, of the model or of one of its plots.

    Of a round that was started again, because its server was lost, a point of the first attempt that was measured
    again does not count. Two points of one attempt both do.
    """
    twice = _begun_twice(model_id, session)
    starts = round_starts(model_id, session, twice) if twice else {}
    again = {key: times[-1] for key, times in starts.items() if len(times) > 1}
    if not again:
        return []
    numbers = {number for number, _ in again}
    wanted = (col(FlMetric.model_id) == model_id) & col(FlMetric.global_round).in_(numbers)
    wanted &= _where(model_id, min(numbers), max(numbers), session)
    rows = _stored(session, wanted if plot is None else wanted & plot.condition())
    newest: dict[tuple[object, ...], datetime] = {}
    for row in rows:
        newest[row.coordinate] = max(row.at, newest.get(row.coordinate, row.at))

    def stands(row: MetricRow) -> bool:
        restart = again.get((row.global_round, row.stage))
        return restart is None or row.at >= restart or newest[row.coordinate] < restart

    return [row for row in rows if not stands(row)]


def _where(model_id: UUID, first: int, last: int, session: Session) -> ColumnElement[bool]:
    """Between which of the model's rows all of these rounds are."""
    packed = (
        (col(FlMetricBlock.model_id) == model_id)
        & (col(FlMetricBlock.last_round) >= first)
        & (col(FlMetricBlock.first_round) <= last)
    )
    low, high = session.execute(
        select(func.min(FlMetricBlock.first_id), func.max(FlMetricBlock.last_id)).where(packed)
    ).one()
    there = not_counted(model_id)
    return there if low is None else there | ((col(FlMetric.id) >= low) & (col(FlMetric.id) <= high))


def _begun_twice(model_id: UUID, session: Session) -> list[int]:
    """The rounds that were begun more than once, in whatever stage: read from an index, whatever else was logged."""
    number = col(FlLog.global_round)
    begun = session.exec(
        select(FlLog.global_round)
        .where(col(FlLog.model_id) == model_id, number.is_not(None), STARTS)
        .group_by(number)
        .having(func.count() > 1)
    )
    return [each for each in begun if each is not None]


def round_starts(
    model_id: UUID, session: Session, only: Collection[int] | None = None
) -> dict[tuple[int, str | None], list[datetime]]:
    """When each round of its stage (of ``only`` these rounds) was begun, earliest first."""
    wanted = [col(FlLog.model_id) == model_id, STARTS]
    if only is not None:
        wanted.append(col(FlLog.global_round).in_(only))
    starts = session.exec(
        select(FlLog.global_round, FlLog.details, FlLog.occurred_at).where(*wanted).order_by(col(FlLog.id))
    )
    found: dict[tuple[int, str | None], list[datetime]] = {}
    for number, details, at in starts:
        if number is not None:
            found.setdefault((number, _stage(details)), []).append(at)
    return {key: sorted(times) for key, times in found.items()}


def _stage(details: str | None) -> str | None:
    try:
        facts = json.loads(details or "{}")
    except ValueError:
        return None
    return stage_of(facts) if isinstance(facts, dict) else None


def metrics_after(model_id: UUID, after: int, until: int, session: Session) -> list[MetricRow]:
    """The model's metrics with ids above ``after``, up to ``until``, in stable x order."""
    newer = (col(FlMetric.id) > after) & (col(FlMetric.id) <= until)
    return _stored(session, (col(FlMetric.model_id) == model_id) & newer)


def _stored(session: Session, condition: ColumnElement[bool]) -> list[MetricRow]:
    rows = session.exec(
        select(  # type: ignore[call-overload, misc]
            FlMetric.id,
            FlMetric.label,
            FlMetric.x_label,
            FlMetric.x_value,
            FlMetric.result,
            FlMetric.global_round,
            FlMetric.trust_id,
            Trust.name,
            Trust.code,
            FlMetric.fl_client_name,
            FlMetric.occurred_at,
            FlMetric.task,
            FlMetric.stage,
        )
        .join(Trust, col(Trust.id) == col(FlMetric.trust_id))
        .where(condition)
        .order_by(col(FlMetric.x_value), col(FlMetric.id))
    )
    return [MetricRow(*row) for row in rows]


def scored_in(model_id: UUID, session: Session, only: Collection[int] | None = None) -> dict[int, set[str]]:
    """Round (of ``only`` these) → the slots that have measured its new model.

    What was logged while it was trained says nothing of it.
    """
    found: dict[int, set[str]] = {}
    counted: list[ColumnElement[bool]] = [col(FlRoundScore.model_id) == model_id]
    newer = [not_counted(model_id), col(FlMetric.task) == Task.VALIDATE, col(FlMetric.fl_client_name).is_not(None)]
    if only is not None:
        counted.append(col(FlRoundScore.global_round).in_(only))
        newer.append(col(FlMetric.global_round).in_(only))
    rows = session.exec(select(FlRoundScore.global_round, FlRoundScore.fl_client_name).where(*counted))
    new = session.exec(select(FlMetric.global_round, FlMetric.fl_client_name).where(*newer).distinct())
    for number, slot in (*rows, *new):
        found.setdefault(number, set()).add(str(slot))
    return found


def not_counted(model_id: UUID) -> ColumnElement[bool]:
    """Which rows of ``fl_metrics`` are the model's and in no count yet, see ``tallies``."""
    counted_to = select(Model.counted_to).where(col(Model.id) == model_id).scalar_subquery()
    return (col(FlMetric.model_id) == model_id) & (col(FlMetric.id) > counted_to)


def curves(model_id: UUID, session: Session) -> list[IModelMetrics]:
    """The plots in order of their label and axis, series in natural order of their labels."""
    rows = metric_rows(model_id, session)
    names = series_names(model_id, session)
    slots = {row.trust_id: row.slot for row in rows}
    plots: dict[tuple[str, str], dict[UUID, list[IMetricPoint]]] = {}
    for row in rows:
        series = plots.setdefault((row.label, row.x_label), {})
        series.setdefault(row.trust_id, []).append(IMetricPoint(xValue=row.x_value, yValue=row.result))
    return [
        IModelMetrics(
            yLabel=label,
            xLabel=x_label,
            metrics=sorted(
                (
                    IMetricSeries(seriesLabel=names.of(trust_id, slots[trust_id]), data=points)
                    for trust_id, points in series.items()
                ),
                key=lambda one: natural_key(one.seriesLabel),
            ),
        )
        for (label, x_label), series in sorted(plots.items())
    ]
