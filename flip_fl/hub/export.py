"""Every point of a model, as it is asked for by programs: nothing is sampled, and no answer is held in memory.

No connection to the database is held while a reader takes its time: each part is read by itself. Rows are only ever
added, so the parts fit together.
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from uuid import UUID

from pydantic_core import to_json
from sqlalchemy import ColumnElement, Engine, func
from sqlmodel import col, select

from flip_fl.dashboard.sampling import Numbers
from flip_fl.hub import database
from flip_fl.hub.curves import PlotKey, round_starts, series_names
from flip_fl.hub.numbers import NumberTexts, objects
from flip_fl.hub.plots import stored_series
from flip_fl.hub.points import trust_points
from flip_fl.hub.tables import FlMetric, Trust, as_utc
from flip_fl.values import natural_key

CSV_COLUMNS = (
    "label",
    "x_label",
    "slot",
    "trust",
    "round",
    "x_value",
    "value",
    "occurred_at",
    "attempt",
    "task",
    "stage",
)
_CSV_ROWS = 10_000
_JSON_POINTS = 20_000
_POINTS_AT_ONCE = 700_000
_SENT_BYTES = 512 << 10
# Spreadsheets would run as a formula what a site has called its metric.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def metrics_json(model_id: UUID, engine: Engine) -> Iterator[bytes]:
    """What ``model_service.get_metrics`` returns, as JSON, in parts of some hundred thousand bytes."""
    return _gathered(_metrics_json(model_id, engine))


def _gathered(parts: Iterable[bytes]) -> Iterator[bytes]:
    # Each part that is sent changes threads and passes every layer of the server: a small one costs more than it holds.
    waiting: list[bytes] = []
    size = 0
    for part in parts:
        waiting.append(part)
        size += len(part)
        if size >= _SENT_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _metrics_json(model_id: UUID, engine: Engine) -> Iterator[bytes]:
    with database.reading(engine) as session:
        series = sorted(stored_series(model_id, session), key=lambda one: one.newest)
        names = series_names(model_id, session)
    # Of a trust that held several slots, the newest.
    slots = {one.trust_id: one.slot for one in series}
    counts: Counter[PlotKey] = Counter()
    for one in series:
        counts[one.plot] += one.points
    opening = b"["
    for plots in _groups(counts):
        with database.reading(engine) as session:
            read = trust_points(model_id, plots, session)
        for plot, points in read:
            yield opening + b'{"yLabel":%b,"xLabel":%b,"metrics":[' % (to_json(plot.label), to_json(plot.x_label))
            yield from _series({names.of(trust, slots.get(trust)): points[trust] for trust in points})
            yield b"]}"
            opening = b","
    yield b"]" if counts else b"[]"


def _groups(counts: Mapping[PlotKey, int]) -> Iterator[list[PlotKey]]:
    """The plots in order, as many at a time as may be in memory together, and at least one."""
    group: list[PlotKey] = []
    points = 0
    for plot in sorted(counts, key=lambda plot: (plot.label, plot.x_label)):
        if group and points + counts[plot] > _POINTS_AT_ONCE:
            yield group
            group, points = [], 0
        group.append(plot)
        points += counts[plot]
    if group:
        yield group


def metrics_csv(model_id: UUID, engine: Engine, plot: PlotKey | None = None) -> Iterator[bytes]:
    """Every stored row as CSV (RFC 4180, UTF-8), oldest first, of one plot or of all.

    ``attempt`` counts how often the round had been begun when the value was measured. A text that a spreadsheet would
    run as a formula begins with an apostrophe.
    """
    with database.reading(engine) as session:
        starts = round_starts(model_id, session)
        newest = session.exec(select(func.max(FlMetric.id)).where(col(FlMetric.model_id) == model_id)).one() or 0
    yield _csv([CSV_COLUMNS])
    wanted: list[ColumnElement[bool]] = [col(FlMetric.model_id) == model_id, col(FlMetric.id) <= newest]
    if plot is not None:
        wanted.append(plot.condition())
    last = 0
    while True:
        with database.reading(engine) as session:
            rows = session.execute(
                select(FlMetric.__table__, Trust.name.label("trust"))  # type: ignore[attr-defined]
                .join(Trust, col(Trust.id) == col(FlMetric.trust_id))
                .where(*wanted, col(FlMetric.id) > last)
                .order_by(col(FlMetric.id))
                .limit(_CSV_ROWS)
            ).all()
        if not rows:
            return
        last = rows[-1].id
        yield _csv(
            [
                _plain(row.label),
                _plain(row.x_label),
                _plain(row.fl_client_name),
                _plain(row.trust),
                row.global_round,
                repr(row.x_value),
                repr(row.result),
                as_utc(row.occurred_at).isoformat(),
                max(1, bisect_right(starts.get((row.global_round, row.stage), ()), row.occurred_at)),
                _plain(row.task),
                _plain(row.stage),
            ]
            for row in rows
        )


def _series(curves: Mapping[str, tuple[Numbers, Numbers]]) -> Iterator[bytes]:
    texts = NumberTexts()
    for number, (name, (xs, ys)) in enumerate(sorted(curves.items(), key=lambda item: natural_key(item[0]))):
        yield (b"," if number else b"") + b'{"seriesLabel":%b,"data":[' % to_json(name)
        for first in range(0, len(xs), _JSON_POINTS):
            part = slice(first, first + _JSON_POINTS)
            yield (b"," if first else b"") + objects(texts, xValue=xs[part], yValue=ys[part])
        yield b"]}"


def _csv(rows: object) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)  # type: ignore[arg-type]
    return text.getvalue().encode()


def _plain(text: str | None) -> str:
    if not text:
        return ""
    return f"'{text}" if text.startswith(_FORMULA) else text
