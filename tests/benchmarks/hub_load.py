"""How many events a second a hub stores with eight senders at once, and what one costs in a large database.

The senders' requests are made beforehand: what is measured is the hub and its database, which says of each event that
it is on the disk. Three hubs a database: an empty one, one with a million events, one with ten. They are measured by
turns, and the events that are sent belong to the models whose millions are there.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from uuid import UUID

import requests
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url

from flip_fl.wire import MAX_BATCH_ITEMS, new_event_id
from tests.benchmarks.figures import Figure
from tests.benchmarks.hub_fill import fill
from tests.benchmarks.hub_served import ServedHub, served_hub
from tests.benchmarks.reporting_hubs import LABEL, SLOT, DocumentedClient, timed
from tests.support.databases import PostgresServer, postgres_server

STORED = "hub: events stored per second, {database}, {senders} concurrent senders"
GROWN = "hub: cost per event at {large} rows beside that at {small}, {database}"
SQLITE, POSTGRES = "SQLite", "PostgreSQL"
SENDERS = 8
MOST_GROWTH = 1.5
LEAST_STORED = 8_000
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Effort:
    """``repeats`` times ``batches`` of 500 from each sender to each hub; ``posts`` of each of the rival's clients."""

    databases: Sequence[str] = (SQLITE, POSTGRES)
    rows: tuple[int, int] = (1_000_000, 10_000_000)
    repeats: int = 3
    batches: int = 10
    posts: int = 60


@dataclass
class Load:
    """Seconds an event on a database, one number a repeat: at the empty hub, the rival's there, by rows at others."""

    empty_s: list[float] = field(default_factory=list)
    rival_s: list[float] = field(default_factory=list)
    filled_s: dict[int, list[float]] = field(default_factory=dict)


def figures(loads: Mapping[str, Load]) -> list[Figure]:
    """Two figures for each database."""
    found = []
    for database, load in loads.items():
        name = STORED.format(database=database, senders=SENDERS)
        ours, rival = statistics.median(load.empty_s), statistics.median(load.rival_s)
        found.append(Figure(name, 1 / ours, "events/s", 1 / rival, f"≥ {LEAST_STORED:,}", ours <= 1 / LEAST_STORED))
        small, large = sorted(load.filled_s)
        name = GROWN.format(large=f"{large:,}", small=f"{small:,}", database=database)
        before, after = statistics.median(load.filled_s[small]), statistics.median(load.filled_s[large])
        met = after <= MOST_GROWTH * before
        found.append(Figure(name, after * 1000, "ms", before * 1000, f"≤ {MOST_GROWTH} × that", met))
    return found


def measure() -> list[Figure]:
    """Both databases."""
    return figures(measure_loads(Effort()))


def measure_loads(effort: Effort) -> dict[str, Load]:
    """The costs by database."""
    return {database: measure_load(database, effort) for database in effort.databases}


def measure_load(database: str, effort: Effort) -> Load:
    """The costs on one database."""
    load = Load(filled_s={rows: [] for rows in effort.rows})
    with tempfile.TemporaryDirectory(prefix="flip-hub-load-") as folder, contextlib.ExitStack() as stack:
        urls = stack.enter_context(databases(database, Path(folder), 1 + len(effort.rows)))
        hubs = {}
        for rows, url in zip((0, *effort.rows), urls, strict=True):
            room = Path(folder, str(rows))
            hubs[rows] = stack.enter_context(served_hub(room, url, SENDERS))
            seconds = timed(partial(fill, hubs[rows], rows)) if rows else 0.0
            print(f"{database}: {rows:,} rows in {seconds:.0f} s", file=sys.stderr, flush=True)
        strict(urls[0])
        for hub in hubs.values():
            store(hub, 1)  # the first request of a process is not what is measured
        for _ in range(effort.repeats):
            load.empty_s.append(store(hubs[0], effort.batches))
            load.rival_s.append(post(hubs[0], effort.posts))
            for rows in effort.rows:
                load.filled_s[rows].append(store(hubs[rows], effort.batches))
    return load


@contextlib.contextmanager
def databases(kind: str, folder: Path, count: int) -> Iterator[list[str]]:
    """The addresses of ``count`` databases without tables."""
    if kind == SQLITE:
        yield [f"sqlite:///{folder / f'{number}.sqlite'}" for number in range(count)]
        return
    with postgres_server() as server:
        yield _empty(server, count)


def _empty(server: PostgresServer, count: int) -> list[str]:
    return [server.empty_database() for _ in range(count)]


def strict(url: str) -> None:
    """From now on a PostgreSQL server waits for the disk, as in production; SQLite as the hub opens it always does."""
    if make_url(url).get_backend_name() == "sqlite":
        return
    engine = create_engine(make_url(url), isolation_level="AUTOCOMMIT")
    with contextlib.closing(engine.connect()) as connection:
        connection.execute(text("ALTER SYSTEM RESET fsync"))
        connection.execute(text("SELECT pg_reload_conf()"))
        while connection.execute(text("SHOW fsync")).scalar_one() != "on":
            time.sleep(0.05)
        connection.execute(text("CHECKPOINT"))
    engine.dispose()


def store(hub: ServedHub, batches: int) -> float:
    """Seconds an event, of ``batches`` full batches from every sender at the same time; each is stored."""
    work = [(model, [batch_body() for _ in range(batches)]) for model in hub.models]
    total = len(work) * batches * MAX_BATCH_ITEMS
    before = hub.last_row()
    with ThreadPoolExecutor(len(work)) as senders:
        begun = time.perf_counter()
        answers = list(senders.map(lambda part: _send(hub, *part), work))
        seconds = time.perf_counter() - begun
    outcomes = {result["outcome"] for sent in answers for answer in sent for result in json.loads(answer)["results"]}
    assert outcomes == {"stored"}, outcomes
    assert hub.rows_after(before) == total
    return seconds / total


def _send(hub: ServedHub, model: UUID, bodies: Sequence[bytes]) -> list[bytes]:
    headers = {"X-Internal-Service-Key": hub.key, "Content-Type": "application/json"}
    with requests.Session() as session:
        answers = []
        for body in bodies:
            answer = session.post(f"{hub.url}/model/{model}/events", data=body, headers=headers, timeout=TIMEOUT_S)
            answer.raise_for_status()
            answers.append(answer.content)
        return answers


def batch_body() -> bytes:
    """A full batch of metrics as a sender posts it, with new ids."""
    at = datetime.now(UTC).isoformat()
    facts = {"kind": "metric", "at": at, "client": SLOT, "global_round": 1, "label": LABEL, "x_label": "Step"}
    items = [
        {**facts, "id": str(new_event_id()), "result": number / 7, "x_value": float(number), "task": "train"}
        for number in range(MAX_BATCH_ITEMS)
    ]
    return json.dumps({"items": items}, separators=(",", ":")).encode()


def post(hub: ServedHub, posts: int) -> float:
    """Seconds an event of as many documented clients at the same time, each ``posts`` metrics."""
    clients = [DocumentedClient(hub.url, hub.key, model) for model in hub.models]

    def post_all(client: DocumentedClient) -> None:
        for number in range(posts):
            client.metric(number)

    before, total = hub.last_row(), len(clients) * posts
    with ThreadPoolExecutor(len(clients)) as senders:
        seconds = timed(lambda: list(senders.map(post_all, clients)))
    assert hub.rows_after(before) == total
    return seconds / total
