"""The hub that reporting is measured against, as a server sees it, and the documented way to report to it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import requests
from sqlalchemy import func
from sqlmodel import col, select

from flip_fl.hub import admin
from flip_fl.hub.tables import FlMetric
from flip_fl.reporting.reporter import Reporter
from flip_fl.simulate.faults import HubFault
from tests.benchmarks.flower_hub import BenchHub, behind

AWAY = HubFault.parse("hub-away")
SLOT = "Trust_1"
LABEL = "bench"
POST_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class DocumentedClient:
    """What FLIP's documented client does with a metric: one POST on a connection of its own, and no second try."""

    url: str
    key: str
    model_id: UUID

    def metric(self, number: int) -> None:
        """Report a number. Raises what ``requests`` raises: the metric is lost then."""
        body = {"fl_client_name": SLOT, "global_round": 1, "label": LABEL, "result": number / 7}
        headers = {"X-Internal-Service-Key": self.key}
        route = f"{self.url}/model/{self.model_id}/metrics"
        requests.post(route, json=body, headers=headers, timeout=POST_TIMEOUT_S).raise_for_status()


def report(reporter: Reporter, number: int) -> None:
    """The same through our reporter."""
    assert reporter.metric(SLOT, LABEL, number / 7, 1, x_value=float(number), x_label="Step")


def report_many(reporter: Reporter, numbers: Sequence[int]) -> None:
    """The same, many at once."""
    with reporter.together():
        for number in numbers:
            report(reporter, number)


@contextlib.contextmanager
def seen(url: str, fault: HubFault | None) -> Iterator[str]:
    """The address of the hub at ``url`` as a server sees it: behind ``fault``, or (None) as it is."""
    with contextlib.ExitStack() as stack:
        yield url if fault is None else stack.enter_context(behind(url, fault))


def stored(database: Path, model_id: UUID, label: str = LABEL) -> int:
    """How many metrics called ``label…`` the hub's database holds of a model."""
    rows = select(func.count()).select_from(FlMetric)
    with admin.open_session(f"sqlite:///{database}") as session:
        return session.exec(rows.where(col(FlMetric.model_id) == model_id, col(FlMetric.label).startswith(label))).one()


def stored_at(hub: BenchHub, model_id: UUID) -> int:
    """How many of the benchmark's metrics ``hub`` holds of a model."""
    return stored(hub.folder.database, model_id)


def timed(action: Callable[[], object]) -> float:
    """Seconds that ``action`` takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def p99(values: Sequence[float]) -> float:
    """The 99th percentile: the smallest value that 99 % do not exceed."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]
