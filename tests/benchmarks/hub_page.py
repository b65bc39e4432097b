"""What a run's page costs and how soon it shows what happens: weight, idle traffic, point to pixel, a big run.

The hub is served in this process and looked at by a Chromium beside it; its database is SQLite.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import requests
from sqlalchemy import insert
from sqlmodel import Session

from flip_fl.hub import admin, database
from flip_fl.hub.tables import FlLog
from tests.benchmarks import hub_read
from tests.benchmarks.figures import Figure
from tests.support.browser import Browser, chromium
from tests.support.watched import WatchedHub, WatchedRun, watched_hub

PIXEL_MEDIAN = "page: from the report at the hub to the pixel, median"
PIXEL_P95 = "page: from the report at the hub to the pixel, p95"
WEIGHT = "page: weight before its data"
WIRE = "page: the same, compressed as it travels"
REQUESTS = "page: requests until a run is drawn"
FOREIGN = "page: requests to other hosts"
IDLE_REQUESTS = "page: requests in 30 s in which nothing happens"
IDLE_BYTES = "page: bytes in these 30 s"
BIG_FIRST = "page: first plot of {sites} sites x {rounds} rounds x {labels} metrics"
BIG_FOCUS = "page: one of {sites} sites brought to the front (p95)"
BIG_TASK = "page: longest task while that run is scrolled through"


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    points: int = 60
    idle_s: float = 30.0
    sites: int = 100
    rounds: int = 1000
    labels: int = 50


@dataclass
class Looked:
    """What was found: seconds, bytes, counts."""

    pixel_s: list[float] = field(default_factory=list)
    weight: int = 0
    wire: int = 0
    requests: int = 0
    foreign: int = 0
    idle_requests: int = 0
    idle_bytes: int = 0
    first_s: float = 0.0
    focus_s: list[float] = field(default_factory=list)
    task_s: float = 0.0


def measure() -> list[Figure]:
    """One hub, one browser."""
    effort = Effort()
    return figures(effort, measure_page(effort))


def figures(effort: Effort, found: Looked) -> list[Figure]:
    """Each figure beside its goal."""
    facts = {"sites": effort.sites, "rounds": effort.rounds, "labels": effort.labels}
    rows = [
        (PIXEL_MEDIAN, statistics.median(found.pixel_s), "s", 1.0),
        (PIXEL_P95, _p95(found.pixel_s), "s", 2.0),
        (WEIGHT, found.weight / 1000, "kB", 150.0),
        (WIRE, found.wire / 1000, "kB", 150.0),
        (REQUESTS, found.requests, "", 5.0),
        (FOREIGN, found.foreign, "", 0.0),
        (IDLE_REQUESTS, found.idle_requests, "", 0.0),
        (IDLE_BYTES, found.idle_bytes, "bytes", 1000.0),
        (BIG_FIRST.format(**facts), found.first_s, "s", 1.5),
        (BIG_FOCUS.format(**facts), _p95(found.focus_s) * 1000, "ms", 50.0),
        (BIG_TASK.format(**facts), found.task_s * 1000, "ms", 200.0),
    ]
    return [Figure(name, value, unit, None, f"≤ {most:g}", value <= most) for name, value, unit, most in rows]


def measure_page(effort: Effort) -> Looked:
    """The costs, one after the other."""
    found = Looked()
    with tempfile.TemporaryDirectory(prefix="flip-page-") as name:
        folder = Path(name)
        admin.init_database(f"sqlite:///{folder / 'empty.sqlite'}")
        (folder / "hub").mkdir()
        with watched_hub(folder / "empty.sqlite", folder / "hub") as hub, chromium() as browser:
            # In the page's own process, where its traffic is seen.
            browser.page.add_init_script("delete window.SharedWorker")
            hub.log_in(browser)
            run = hub.run("watched")
            run.begin()
            run.round(1, 1000)
            _weigh(found, hub, run)
            browser.visit(run.page)
            found.requests = len(browser.requests)
            mine = urlsplit(hub.pages).netloc
            found.foreign = sum(urlsplit(r).netloc != mine for r in browser.requests if r.startswith("http"))
            _idle(found, browser, effort)
            _pixels(found, browser, run, effort)
            browser.page.goto("about:blank")
        (folder / "big").mkdir()
        with watched_hub(folder / "empty.sqlite", folder / "big") as hub, chromium() as browser:
            browser.page.add_init_script("delete window.SharedWorker")
            hub.log_in(browser)
            _big(found, browser, hub, effort)
            browser.page.goto("about:blank")
    return found


def _weigh(found: Looked, hub: WatchedHub, run: WatchedRun) -> None:
    page = requests.get(run.page, headers=hub.reader, timeout=30)
    names = [part.split('"')[0] for part in page.text.split('="../assets/')[1:]]
    for answer in [page, *(requests.get(f"{hub.pages}assets/{name}", timeout=30) for name in names)]:
        found.weight += len(answer.content)
        found.wire += int(answer.headers["Content-Length"])


def _idle(found: Looked, browser: Browser, effort: Effort) -> None:
    # What the page does once after it was drawn is over then.
    browser.page.wait_for_timeout(3000)
    before = len(browser.requests)
    received: list[int] = []
    network = browser.page.context.new_cdp_session(browser.page)
    network.on("Network.dataReceived", lambda told: received.append(told["encodedDataLength"] or told["dataLength"]))
    network.send("Network.enable")
    browser.page.wait_for_timeout(effort.idle_s * 1000)
    found.idle_requests, found.idle_bytes = len(browser.requests) - before, sum(received)


def _pixels(found: Looked, browser: Browser, run: WatchedRun, effort: Effort) -> None:
    pauses = random.Random(5)
    for number in range(2, effort.points + 2):
        time.sleep(pauses.uniform(0.1, 0.9))
        begun = time.perf_counter()
        run.say(run.metric("Trust_1", "loss", 1 / number, number))
        browser.wait(f"document.querySelector('#plot-1 figcaption').textContent.includes('Round {number}:')")
        found.pixel_s.append(time.perf_counter() - begun)


def _big(found: Looked, browser: Browser, hub: WatchedHub, effort: Effort) -> None:
    with admin.open_session(hub.url) as session:
        admin.create_project(session, "Big")
        model = admin.create_model(session, "Big", "a big run", "", trusts=[])
    size = hub_read.Effort(sites=effort.sites, rounds=effort.rounds, labels=effort.labels, steps=1)
    hub_read.fill_run(SimpleNamespace(database_url=hub.url, models=(model.id,)), size)  # type: ignore[arg-type]
    with admin.open_session(hub.url) as session:
        for number in range(effort.sites):
            admin.assign_slot(session, f"Trust_{number + 1}")
    run = WatchedRun(hub, model.id, [f"Trust_{k + 1}" for k in range(effort.sites)])
    run.begin()
    engine = database.open_engine(hub.url)
    with database.writing(engine) as session:
        _rounds(session, run, effort)
    engine.dispose()
    watch = (
        "window.tasks = []; new PerformanceObserver((l) => tasks.push(...l.getEntries().map((e) => e.duration)))"
        ".observe({ type: 'longtask', buffered: true });"
    )
    browser.page.add_init_script(watch)
    begun = time.perf_counter()
    browser.visit(run.page, width=1440)
    browser.wait("document.querySelector('figure.chart svg g.series path')", timeout=60)
    found.first_s = time.perf_counter() - begun
    browser.wait("document.querySelectorAll('figure.chart svg').length > 2", timeout=60)
    # What comes after the plots is not what is measured.
    browser.wait("document.querySelector('table.rounds')", timeout=240)
    time.sleep(3)
    focus = (
        "(() => { const b = document.querySelectorAll('.legend button')[%d], t = performance.now();"
        " b.dispatchEvent(new MouseEvent('mouseenter')); document.body.offsetHeight;"
        " const took = performance.now() - t; b.dispatchEvent(new MouseEvent('mouseleave')); return took; })()"
    )
    found.focus_s = [browser.js(focus % (k % effort.sites)) / 1000 for k in range(20)]
    browser.js("window.tasks.length = 0")
    height = browser.js("document.documentElement.scrollHeight")
    for place in range(0, height, 300):
        browser.js(f"window.scrollTo(0, {place})")
        time.sleep(0.05)
    time.sleep(1)
    found.task_s = max(browser.js("window.tasks"), default=0.0) / 1000


def _rounds(session: Session, run: WatchedRun, effort: Effort) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=60 * effort.rounds)
    trusts = {trust.slot: trust.id for trust in admin.list_trusts(session)}
    rows: list[dict[str, Any]] = []
    for number in range(1, effort.rounds + 1):
        at = begun + timedelta(seconds=60 * number)
        common = {"model_id": run.id, "success": True, "global_round": number, "log": None, "status": None}
        rows.append(_row(common, at, "ROUND_STARTED", {"total_rounds": effort.rounds}))
        for k, slot in enumerate(run.slots):
            told = _row(common, at + timedelta(seconds=20 + k / 10), "CLIENT_RESULT_RECEIVED", {"size_bytes": 1})
            rows.append(told | {"trust_id": trusts[slot], "fl_client_name": slot})
        counts = {"returned": effort.sites, "expected": effort.sites}
        rows.append(_row(common, at + timedelta(seconds=40), "ROUND_AGGREGATED", counts))
    for first in range(0, len(rows), 10_000):
        session.execute(insert(FlLog), rows[first : first + 10_000])
    session.commit()


def _row(common: dict[str, Any], at: datetime, event: str, details: dict[str, object]) -> dict[str, Any]:
    facts = {"occurred_at": at, "log_date": at, "event_type": event, "details": json.dumps(details)}
    return common | facts | {"trust_id": None, "fl_client_name": None}


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
