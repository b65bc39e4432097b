"""What it costs to read a big run: every point as a stream, one plot as it is drawn, and the list of plots.

A hundred hospitals, a thousand rounds, twenty metrics: two million points; and beside them one plot with a single
series of a hundred thousand. The hub is a process of its own; the reader shares the machine with it. A plot is looked
at many times, as a page that is open and zoomed does; the first look, when the hub has nothing of it in memory, is a
figure of its own.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import requests
from sqlalchemy import text
from sqlmodel import Session

from flip_fl.hub import admin, database, tallies
from tests.benchmarks.figures import Figure
from tests.benchmarks.hub_load import POSTGRES, SQLITE, databases
from tests.benchmarks.hub_served import ServedHub, served_hub

STREAMED = "hub: {points:,} points streamed, {database}"
MEMORY = "hub: memory that takes, {database}"
LONG_PLOT = "hub: a plot of {points:,} points, one series (p95), {database}"
WIDE_PLOT = "hub: a plot of {points:,} points, {sites} series (p95), {database}"
FIRST = "hub: list of the plots of that run and the first look at one, {database}"
# Of a hundred series a picture shows no more.
WIDE = 300
MOST_S, MOST_MB, MOST_PLOT_MS, MOST_FIRST_MS = 5.0, 100.0, 150.0, 1000.0

_NUMBERS = {
    "sqlite": "WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)",
    "postgresql": "WITH numbers AS (SELECT n FROM generate_series(CAST(:first AS bigint), :last) AS n)",
}
_AT = {"sqlite": ":at", "postgresql": "CAST(:at AS timestamptz)"}
# As they come in: a round after the other, in it a site after the other, each with all its metrics.
_RUN = (
    "INSERT INTO fl_metrics (model_id, trust_id, fl_client_name, global_round, label, result, x_label, x_value, task, "
    "occurred_at) {numbers} SELECT :model, trust.id, trust.name, n / (:sites * :labels) + 1, "
    "'metric_' || (n % :labels), 1.0 / (n + 1) + n % 7, 'Global Rounds', n / (:sites * :labels) + 1, 'validate', {at} "
    "FROM numbers JOIN trust ON trust.name = 'Trust_' || ((n / :labels) % :sites + 1) ORDER BY n"
)
_LONG = (
    "INSERT INTO fl_metrics (model_id, trust_id, fl_client_name, global_round, label, result, x_label, x_value, "
    "occurred_at) {numbers} SELECT :model, trust.id, trust.name, n / 100 + 1, 'step_loss', "
    "1.0 / (n + 1) + n % 13, 'Step', n, {at} FROM numbers JOIN trust ON trust.name = 'Trust_1' ORDER BY n"
)


@dataclass(frozen=True)
class Effort:
    """How big the run is, and how often a plot is asked for."""

    databases: Sequence[str] = (SQLITE, POSTGRES)
    sites: int = 100
    rounds: int = 1000
    labels: int = 20
    steps: int = 100_000
    plots: int = 40

    @property
    def points(self) -> int:
        return self.sites * self.rounds * self.labels


@dataclass
class Reading:
    """Seconds, and bytes that the hub's process grew by while it streamed."""

    streamed_s: float = 0.0
    grown_bytes: int = 0
    long_s: list[float] = field(default_factory=list)
    wide_s: list[float] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)


def measure() -> list[Figure]:
    """Both databases."""
    effort = Effort()
    return [each for name in effort.databases for each in figures(name, effort, measure_reading(name, effort))]


def figures(name: str, effort: Effort, found: Reading) -> list[Figure]:
    """The figures of one database."""
    facts = {"database": name, "sites": effort.sites}
    wide = effort.sites * effort.rounds
    plots = [(LONG_PLOT, effort.steps, found.long_s, MOST_PLOT_MS), (WIDE_PLOT, wide, found.wide_s, MOST_PLOT_MS)]
    plots.append((FIRST, 0, found.first_s, MOST_FIRST_MS))
    streamed, grown = found.streamed_s, found.grown_bytes / 1e6
    every = effort.points + effort.steps
    made = [
        Figure(STREAMED.format(points=every, **facts), streamed, "s", None, f"≤ {MOST_S:g}", streamed <= MOST_S),
        Figure(MEMORY.format(**facts), grown, "MB", None, f"≤ {MOST_MB:g}", grown <= MOST_MB),
    ]
    for title, points, seconds, most in plots:
        value = _p95(seconds) * 1000
        made.append(Figure(title.format(points=points, **facts), value, "ms", None, f"≤ {most:g}", value <= most))
    return made


def measure_reading(name: str, effort: Effort) -> Reading:
    """The costs on one database."""
    found = Reading()
    with tempfile.TemporaryDirectory(prefix="flip-hub-read-") as folder, contextlib.ExitStack() as stack:
        (url,) = stack.enter_context(databases(name, Path(folder), 1))
        hub = stack.enter_context(served_hub(Path(folder), url, 1))
        fill_run(hub, effort)
        with requests.Session() as reader:
            reader.headers.update(hub.reader)
            _read(reader, hub, "/plot?label=none", 404)  # the first request of a process is not what is measured
            # Before anything else that would need memory.
            before = hub.memory()
            found.streamed_s = _read(reader, hub, "/metrics")
            found.grown_bytes = hub.memory() - before
            for number in range(effort.labels):
                listed = _read(reader, hub, "/plots")
                found.first_s.append(listed + _read(reader, hub, f"/plot?label=metric_{number}&points={WIDE}"))
            for _ in range(effort.plots):
                found.long_s.append(_read(reader, hub, "/plot?label=step_loss&x_label=Step"))
                found.wide_s.append(_read(reader, hub, f"/plot?label=metric_0&points={WIDE}"))
    return found


def fill_run(hub: ServedHub, effort: Effort) -> None:
    """The run of ``effort`` into the hub's first model, and a long series beside it."""
    engine = database.open_engine(hub.database_url)
    parts = {"numbers": _NUMBERS[engine.dialect.name], "at": _AT[engine.dialect.name]}
    model = hub.models[0].hex if engine.dialect.name == "sqlite" else hub.models[0]
    facts = {"model": model, "sites": effort.sites, "labels": effort.labels, "at": "2026-03-01 12:00:00.000000"}
    with admin.open_session(hub.database_url) as session:
        admin.seed_slots(session, effort.sites)
        for number in range(effort.sites):
            admin.create_trust(session, f"Trust_{number + 1}")
        admin.associate_trusts(session, hub.models[0], [f"Trust_{number + 1}" for number in range(effort.sites)])
    with database.writing(engine) as session:
        _insert(session, _RUN.format(**parts), facts | {"first": 0, "last": effort.points - 1})
        long = {"model": model, "at": facts["at"], "first": 0, "last": effort.steps - 1}
        _insert(session, _LONG.format(**parts), long)
        session.commit()
        tallies.roll_everything(session)
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE" if engine.dialect.name == "sqlite" else "VACUUM ANALYZE")
    if engine.dialect.name == "sqlite":
        # In one go so much is written as no hub ever does: into the file with it, as at the end of each small write.
        with contextlib.closing(sqlite3.connect(str(engine.url.database))) as file:
            file.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()


def _insert(session: Session, statement: str, facts: dict[str, object]) -> None:
    session.execute(text(statement), facts)


def _read(reader: requests.Session, hub: ServedHub, path: str, status: int = 200) -> float:
    begun = time.perf_counter()
    with reader.get(f"{hub.url}/model/{hub.models[0]}{path}", stream=True, timeout=120) as response:
        assert response.status_code == status, response.text
        for _ in response.iter_content(1 << 20):
            pass
    return time.perf_counter() - begun


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else seconds[0]
