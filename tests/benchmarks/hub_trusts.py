"""A hub under the load of runs with a hundred trusts each, while people look: rates, waits, and what each costs.

Each run's FL server sends what a run sends: of every round its beginning, of every trust a result and twenty metrics,
and its end. Readers ask for the story and a plot again and again. What an event costs in processor time and in bytes is
what docs/capacity.md extends.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import psutil
import requests

from flip_fl.hub import admin, database
from flip_fl.wire import MAX_BATCH_ITEMS, new_event_id
from tests.benchmarks.figures import Figure
from tests.benchmarks.hub_load import POSTGRES, SQLITE, databases, strict
from tests.benchmarks.hub_served import ServedHub, served_hub

RATE = "hub: events stored per second, {runs} runs of {trusts} trusts, {readers} readers, {database}"
ACKNOWLEDGED = "hub: a batch of 500 acknowledged at that load (p95), {database}"
LOOKED = "hub: a plot of a run under way at that load (p95), {database}"
PROCESSOR = "hub: processor time of hub and database per event at that load, {database}"
ROOM = "hub: bytes in the database per event at that load, {database}"
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Effort:
    """``runs`` at once of ``trusts`` trusts and ``rounds`` rounds, each trust ``labels`` metrics a round."""

    databases: Sequence[str] = (SQLITE, POSTGRES)
    runs: int = 4
    trusts: int = 100
    rounds: int = 6
    labels: int = 20
    readers: int = 2


@dataclass
class Load:
    """What was measured: seconds of each batch and look, and totals."""

    seconds: float = 0.0
    events: int = 0
    batches_s: list[float] = field(default_factory=list)
    looks_s: list[float] = field(default_factory=list)
    processor_s: float = 0.0
    database_bytes: int = 0
    sent_bytes: int = 0


def measure() -> list[Figure]:
    """Both databases."""
    effort = Effort()
    return [each for name in effort.databases for each in figures(name, effort, measure_load(name, effort))]


def figures(name: str, effort: Effort, load: Load) -> list[Figure]:
    """The figures of one database; none has a goal of its own."""
    facts = {"database": name, "runs": effort.runs, "trusts": effort.trusts, "readers": effort.readers}
    values = [
        (RATE, load.events / load.seconds, "events/s"),
        (ACKNOWLEDGED, _p95(load.batches_s) * 1000, "ms"),
        (LOOKED, _p95(load.looks_s) * 1000, "ms"),
        (PROCESSOR, load.processor_s / load.events * 1e6, "µs"),
        (ROOM, load.database_bytes / load.events, "bytes"),
    ]
    return [Figure(title.format(**facts), value, unit, None, "stated", True) for title, value, unit in values]


def measure_load(name: str, effort: Effort) -> Load:
    """The load on one database."""
    load = Load()
    with tempfile.TemporaryDirectory(prefix="flip-hub-trusts-") as folder, contextlib.ExitStack() as stack:
        (url,) = stack.enter_context(databases(name, Path(folder), 1))
        hub = stack.enter_context(served_hub(Path(folder), url, effort.runs))
        strict(url)
        _take_part(hub, effort)
        work = [list(_batches(effort)) for _ in hub.models]
        load.events = effort.runs * sum(count for count, _ in work[0])
        load.sent_bytes = sum(len(body) for bodies in work for _, body in bodies)
        used, before, over = _processor_s(hub), _room(hub), threading.Event()
        with ThreadPoolExecutor(effort.runs + effort.readers) as people:
            looks = [people.submit(_look, hub, hub.models[n % effort.runs], over) for n in range(effort.readers)]
            begun = time.perf_counter()
            sent = [people.submit(_send, hub, model, part) for model, part in zip(hub.models, work, strict=True)]
            load.batches_s = [each for future in sent for each in future.result()]
            load.seconds = time.perf_counter() - begun
            over.set()
            load.looks_s = [each for future in looks for each in future.result()]
        load.processor_s = _processor_s(hub) - used
        load.database_bytes = _room(hub) - before
    return load


def _take_part(hub: ServedHub, effort: Effort) -> None:
    with admin.open_session(hub.database_url) as session:
        admin.seed_slots(session, effort.trusts)
        names = [f"Hospital {number}" for number in range(2, effort.trusts + 1)]
        for name in names:
            admin.assign_slot(session, admin.create_trust(session, name).id)
        for model in hub.models:
            admin.associate_trusts(session, model, names)


def _batches(effort: Effort) -> Iterator[tuple[int, bytes]]:
    """What one run sends, as full batches."""
    waiting: list[dict[str, object]] = []
    for number in range(1, effort.rounds + 1):
        waiting.append(_event("ROUND_STARTED", number, details={"total_rounds": effort.rounds}))
        for trust in range(1, effort.trusts + 1):
            slot = f"Trust_{trust}"
            waiting.append(_event("CLIENT_RESULT_RECEIVED", number, client=slot, details={"size_bytes": 2_400_000}))
            waiting += [_metric(slot, f"metric_{label}", number, trust) for label in range(effort.labels)]
        ended = {"returned": effort.trusts, "expected": effort.trusts}
        waiting.append(_event("ROUND_AGGREGATED", number, details=ended))
    for first in range(0, len(waiting), MAX_BATCH_ITEMS):
        part = waiting[first : first + MAX_BATCH_ITEMS]
        yield len(part), json.dumps({"items": part}, separators=(",", ":")).encode()


def _event(kind: str, number: int, **facts: object) -> dict[str, object]:
    return {**_facts("event"), "event_type": kind, "global_round": number, **facts}


def _metric(slot: str, label: str, number: int, trust: int) -> dict[str, object]:
    measured = {"client": slot, "label": label, "result": trust / 7 + 1 / number, "task": "validate"}
    return {**_facts("metric"), **measured, "global_round": number}


def _facts(kind: str) -> dict[str, object]:
    return {"kind": kind, "id": str(new_event_id()), "at": datetime.now(UTC).isoformat()}


def _send(hub: ServedHub, model: UUID, bodies: Sequence[tuple[int, bytes]]) -> list[float]:
    headers = {"X-Internal-Service-Key": hub.key, "Content-Type": "application/json"}
    seconds = []
    with requests.Session() as session:
        for count, body in bodies:
            begun = time.perf_counter()
            answer = session.post(f"{hub.url}/model/{model}/events", data=body, headers=headers, timeout=TIMEOUT_S)
            seconds.append(time.perf_counter() - begun)
            outcomes = {result["outcome"] for result in answer.json()["results"]}
            assert outcomes == {"stored"}, outcomes
            assert len(answer.json()["results"]) == count
    return seconds


def _look(hub: ServedHub, model: UUID, over: threading.Event) -> list[float]:
    seconds = []
    with requests.Session() as session:
        session.headers.update(hub.reader)
        while not over.wait(1.0):
            session.get(f"{hub.url}/model/{model}/story?plots=listed", timeout=TIMEOUT_S).raise_for_status()
            begun = time.perf_counter()
            answer = session.get(f"{hub.url}/model/{model}/plot?label=metric_0", timeout=TIMEOUT_S)
            if answer.status_code == 200:
                seconds.append(time.perf_counter() - begun)
    return seconds


def _processor_s(hub: ServedHub) -> float:
    """Of the hub's process, and of the PostgreSQL server that its address names."""
    found = [psutil.Process(hub.pid)]
    if not hub.database_url.startswith("sqlite"):
        engine = database.open_engine(hub.database_url)
        with engine.connect() as connection:
            backend = psutil.Process(int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()))
            server = backend.parent() or backend
            found += [server, *server.children()]
            total = sum(sum(process.cpu_times()[:2]) for process in found)
        engine.dispose()
        return total
    return sum(sum(process.cpu_times()[:2]) for process in found)


def _room(hub: ServedHub) -> int:
    engine = database.open_engine(hub.database_url)
    try:
        with database.reading(engine) as session:
            return database.size_bytes(session)
    finally:
        engine.dispose()


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1] if len(seconds) > 1 else (list(seconds) or [0.0])[0]
