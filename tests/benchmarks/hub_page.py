"""What a run's page costs and how soon it shows what happens: weight, idle traffic, point to pixel.

The hub is served in this process and looked at by a Chromium beside it; its database is SQLite.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import requests

from flip_fl.hub import admin
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


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    points: int = 60
    idle_s: float = 30.0


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


def measure() -> list[Figure]:
    """One hub, one browser."""
    return figures(measure_page(Effort()))


def figures(found: Looked) -> list[Figure]:
    """Each figure beside its goal."""
    rows = [
        (PIXEL_MEDIAN, statistics.median(found.pixel_s), "s", 1.0),
        (PIXEL_P95, _p95(found.pixel_s), "s", 2.0),
        (WEIGHT, found.weight / 1000, "kB", 150.0),
        (WIRE, found.wire / 1000, "kB", 150.0),
        (REQUESTS, found.requests, "", 5.0),
        (FOREIGN, found.foreign, "", 0.0),
        (IDLE_REQUESTS, found.idle_requests, "", 0.0),
        (IDLE_BYTES, found.idle_bytes, "bytes", 1000.0),
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


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
