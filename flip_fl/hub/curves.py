"""A model's metrics as plots: one plot per (label, x-axis), one series per trust."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlmodel import Session, col, select

from flip_fl.hub.tables import FlLog, FlMetric, Trust
from flip_fl.hub.words import stage_of
from flip_fl.values import EventType, Task, natural_key


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

    @property
    def people_name(self) -> str:
        """What people call the trust: its code, else its name, else its id."""
        return self.trust_code or self.trust_name or str(self.trust_id)


def metric_rows(model_id: UUID, session: Session) -> list[MetricRow]:
    """The model's metrics in stable x order: by x value, then as they were stored.

    Of a round that was started again, because its server was lost, a point of the first attempt that was measured
    again does not count. Two points of one attempt both do.
    """
    rows = _stored(model_id, session)
    again = _started_again(model_id, session)
    if not again:
        return rows
    newest: dict[tuple[object, ...], datetime] = {}
    for row in rows:
        newest[row.coordinate] = max(row.at, newest.get(row.coordinate, row.at))

    def stands(row: MetricRow) -> bool:
        restart = again.get((row.global_round, row.stage))
        return restart is None or row.at >= restart or newest[row.coordinate] < restart

    return [row for row in rows if stands(row)]


def _started_again(model_id: UUID, session: Session) -> dict[tuple[int, str | None], datetime]:
    """When each round (of its stage) that was begun more than once was begun last."""
    starts = session.exec(
        select(FlLog.global_round, FlLog.details, FlLog.occurred_at)
        .where(col(FlLog.model_id) == model_id, col(FlLog.event_type) == EventType.ROUND_STARTED)
        .order_by(col(FlLog.id))
    )
    found: dict[tuple[int, str | None], list[datetime]] = {}
    for number, details, at in starts:
        if number is not None:
            found.setdefault((number, _stage(details)), []).append(at)
    return {key: max(times) for key, times in found.items() if len(times) > 1}


def _stage(details: str | None) -> str | None:
    try:
        facts = json.loads(details or "{}")
    except ValueError:
        return None
    return stage_of(facts) if isinstance(facts, dict) else None


def _stored(model_id: UUID, session: Session) -> list[MetricRow]:
    rows = session.exec(
        select(  # type: ignore[call-overload]
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
        .where(col(FlMetric.model_id) == model_id)
        .order_by(col(FlMetric.x_value), col(FlMetric.id))
    )
    return [MetricRow(*row) for row in rows]


def scored_in(rows: Iterable[MetricRow]) -> dict[int, set[str]]:
    """Round → the slots that have measured its new model. What was logged while it was trained says nothing of it."""
    found: dict[int, set[str]] = {}
    for row in rows:
        if row.slot is not None and row.task == Task.VALIDATE:
            found.setdefault(row.global_round, set()).add(row.slot)
    return found


def series_names(rows: Iterable[MetricRow]) -> dict[UUID, str]:
    """A label for each trust; trusts that would share one have their slot added."""
    of_trust = {row.trust_id: row for row in rows}
    counts = Counter(row.people_name for row in of_trust.values())
    return {
        trust_id: row.people_name if counts[row.people_name] == 1 else f"{row.people_name} ({row.slot or trust_id})"
        for trust_id, row in of_trust.items()
    }


def curves(model_id: UUID, session: Session) -> list[IModelMetrics]:
    """The plots in order of their label and axis, series in natural order of their labels."""
    rows = metric_rows(model_id, session)
    names = series_names(rows)
    plots: dict[tuple[str, str], dict[UUID, list[IMetricPoint]]] = {}
    for row in rows:
        series = plots.setdefault((row.label, row.x_label), {})
        series.setdefault(row.trust_id, []).append(IMetricPoint(xValue=row.x_value, yValue=row.result))
    return [
        IModelMetrics(
            yLabel=label,
            xLabel=x_label,
            metrics=[
                IMetricSeries(seriesLabel=names[trust_id], data=series[trust_id])
                for trust_id in sorted(series, key=lambda trust_id: natural_key(names[trust_id]))
            ],
        )
        for (label, x_label), series in sorted(plots.items())
    ]
