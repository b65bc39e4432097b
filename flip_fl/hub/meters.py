"""What a hub measures of itself, in Prometheus's text form; nothing in it names a person, a project or a value."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from sqlalchemy import Engine, func
from sqlalchemy.pool import QueuePool
from sqlmodel import col, select

from flip_fl import __version__
from flip_fl.hub import database
from flip_fl.hub.silence import SilenceRule, silent_runs
from flip_fl.hub.tables import Model, utc_now
from flip_fl.values import ModelStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Meters:
    """The meters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "flip_hub_requests", "Answered requests.", ("method", "route", "status"), registry=self._registry
        )
        self.seconds = Histogram(
            "flip_hub_request_seconds",
            "From a request's headers to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.open = Gauge("flip_hub_requests_open", "Requests that are being answered.", registry=self._registry)
        self.events = Counter(
            "flip_hub_events",
            "Reported facts by what became of them; the metrics of one item all as the item.",
            ("outcome",),
            registry=self._registry,
        )
        self.started = Gauge(
            "flip_hub_start_time_seconds", "When this process began to serve.", registry=self._registry
        )
        self.started.set(time.time())
        version = Gauge("flip_hub_build_info", "The version of flip_fl.", ("version",), registry=self._registry)
        version.labels(__version__).set(1)

    def count(self, outcomes: Iterable[str]) -> None:
        """Count reported facts: stored, duplicate or refused."""
        for outcome, number in Tally(outcomes).items():
            self.events.labels(outcome).inc(number)

    def text(self, engine: Engine, rule: SilenceRule) -> bytes:
        """All meters, and what the database knows now. Raises what the database raises."""
        shown = CollectorRegistry()
        shown.register(_Now(_measured(engine, rule)))
        return generate_latest(self._registry) + generate_latest(shown)


class _Now:
    """Numbers that were just read."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _measured(engine: Engine, rule: SilenceRule) -> list[Metric]:
    with database.reading(engine) as session:
        counts = session.exec(
            select(Model.status, func.count()).where(col(Model.deleted).is_(False)).group_by(col(Model.status))
        ).all()
        silent = len(silent_runs(session, rule.unreachable_after, utc_now()))
        size = database.size_bytes(session)
    models = GaugeMetricFamily("flip_hub_models", "Models by status.", labels=["status"])
    known = dict(counts)
    for status in ModelStatus:
        models.add_metric([status.value], known.get(status, 0))
    found: list[Metric] = [
        models,
        GaugeMetricFamily("flip_hub_silent_runs", "Runs that should report and do not.", value=silent),
        GaugeMetricFamily("flip_hub_database_bytes", "The database's size on the disk.", value=size),
    ]
    if isinstance(engine.pool, QueuePool):
        used = engine.pool.checkedout()
        found.append(GaugeMetricFamily("flip_hub_connections_used", "Connections to the database in use.", value=used))
    return found
