"""How soon the page of a big run shows its first plot, and how smooth it is to look through.

The hub is a process of its own, its database SQLite; a Chromium beside it looks at the run, each time a new one.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import insert
from sqlmodel import Session

from flip_fl.hub import admin, database
from flip_fl.hub.model_service import update_model_status
from flip_fl.hub.tables import FlLog
from flip_fl.values import EventType, ModelStatus
from tests.benchmarks import hub_read
from tests.benchmarks.figures import Figure
from tests.benchmarks.hub_served import ServedHub, served_hub
from tests.support.browser import Browser, chromium

FIRST = "page: first plot of {sites} sites x {rounds} rounds x {labels} metrics"
FOCUS = "page: one of {sites} sites brought to the front (p95)"
TASK = "page: longest task while that run is scrolled through"
# By how many metrics the run has: within how many seconds its first plot is to be there.
GOALS_S: Mapping[int, float] = {20: 1.0, 50: 1.5}
FOCUS_MS, TASK_MS = 50.0, 200.0
# When the first curve was on the screen, in ms since the browser was told to go to the page: the frame after the one
# that has it.
_WATCH = (
    "window.drawn = 0; (function look() { if (document.querySelector('figure.chart svg g.series path'))"
    " requestAnimationFrame(() => { window.drawn = performance.now(); }); else requestAnimationFrame(look); })();"
    "window.tasks = []; new PerformanceObserver((l) => tasks.push(...l.getEntries().map((e) => e.duration)))"
    ".observe({ type: 'longtask', buffered: true });"
)
_FOCUS = (
    "(() => { const b = document.querySelectorAll('.legend button')[%d], t = performance.now();"
    " b.dispatchEvent(new MouseEvent('mouseenter')); document.body.offsetHeight;"
    " const took = performance.now() - t; b.dispatchEvent(new MouseEvent('mouseleave')); return took; })()"
)


@dataclass(frozen=True)
class Effort:
    """How big the runs are, and how often each is looked at."""

    sites: int = 100
    rounds: int = 1000
    labels: tuple[int, ...] = tuple(GOALS_S)
    visits: int = 3


@dataclass
class Looked:
    """What was found, in seconds: by metrics of the run until its first plot, and of the biggest run the rest.

    ``tasks_s``: the longest task of each visit.
    """

    first_s: dict[int, list[float]] = field(default_factory=dict)
    focus_s: list[float] = field(default_factory=list)
    tasks_s: list[float] = field(default_factory=list)


def measure() -> list[Figure]:
    """Each size in a hub of its own."""
    effort = Effort()
    return figures(effort, measure_big(effort))


def figures(effort: Effort, found: Looked) -> list[Figure]:
    """Each figure beside its goal."""
    size = {"sites": effort.sites, "rounds": effort.rounds}
    rows = [
        (
            FIRST.format(**size, labels=labels),
            statistics.median(seconds),
            "s",
            GOALS_S.get(labels, max(GOALS_S.values())),
        )
        for labels, seconds in found.first_s.items()
    ]
    rows.append((FOCUS.format(**size), _p95(found.focus_s) * 1000, "ms", FOCUS_MS))
    rows.append((TASK, max(found.tasks_s) * 1000, "ms", TASK_MS))
    return [Figure(name, value, unit, None, f"≤ {most:g}", value <= most) for name, value, unit, most in rows]


def measure_big(effort: Effort) -> Looked:
    """The costs, from the smallest run to the biggest."""
    found = Looked()
    for labels in sorted(effort.labels):
        with tempfile.TemporaryDirectory(prefix="flip-page-big-") as name:
            folder = Path(name)
            with served_hub(folder, f"sqlite:///{folder / 'hub.sqlite'}", 1) as hub:
                _fill(hub, effort, labels)
                whole = labels == max(effort.labels)
                found.first_s[labels] = [_visit(hub, found, effort, whole=whole) for _ in range(effort.visits)]
    return found


def _fill(hub: ServedHub, effort: Effort, labels: int) -> None:
    """A run under way of which everything is there, scores and activity."""
    size = hub_read.Effort(sites=effort.sites, rounds=effort.rounds, labels=labels, steps=1)
    hub_read.fill_run(hub, size)
    engine = database.open_engine(hub.database_url)
    with admin.open_session(hub.database_url) as session:
        # The slot of the hub's own trust is the first one.
        admin.seed_slots(session, effort.sites + 1)
        slots = {admin.assign_slot(session, f"Trust_{number + 1}"): number for number in range(effort.sites)}
        trusts = {trust.slot: trust.id for trust in admin.list_trusts(session) if trust.slot in slots}
    with database.writing(engine) as session:
        for status in (ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING):
            update_model_status(hub.models[0], status, session)
        _rounds(session, hub.models[0], {str(slot): trust for slot, trust in trusts.items()}, effort)
    engine.dispose()


def _visit(hub: ServedHub, found: Looked, effort: Effort, *, whole: bool) -> float:
    """Seconds until a new browser shows the run's first plot; ``whole`` looks at all the rest of it, too."""
    pages = hub.url.removesuffix("api")
    with chromium() as browser:
        # In the page's own process, where its traffic is seen.
        browser.page.add_init_script("delete window.SharedWorker")
        browser.page.add_init_script(_WATCH)
        browser.page.goto(f"{pages}login?next=trusts")
        browser.page.fill("#token", hub.token)
        browser.page.keyboard.press("Enter")
        browser.wait("location.pathname.endsWith('/trusts') && document.documentElement.dataset.ready")
        browser.visit(f"{pages}models/{hub.models[0]}", width=1440)
        browser.wait("window.drawn", timeout=60)
        seconds = float(browser.js("window.drawn")) / 1000
        # What comes after the first plot is not what is measured; the next visit begins at a hub that rests.
        browser.wait("document.querySelector('table.rounds')", timeout=240)
        time.sleep(3)
        if whole:
            _look_through(browser, found, effort)
        browser.page.goto("about:blank")
    return seconds


def _look_through(browser: Browser, found: Looked, effort: Effort) -> None:
    found.focus_s += [browser.js(_FOCUS % (k % effort.sites)) / 1000 for k in range(20)]
    browser.js("window.tasks.length = 0")
    height = browser.js("document.documentElement.scrollHeight")
    for place in range(0, height, 300):
        browser.js(f"window.scrollTo(0, {place})")
        time.sleep(0.05)
    time.sleep(1)
    found.tasks_s.append(max(browser.js("window.tasks"), default=0.0) / 1000)


def _rounds(session: Session, model: UUID, trusts: Mapping[str, UUID], effort: Effort) -> None:
    begun = datetime.now(UTC) - timedelta(seconds=60 * effort.rounds)
    rows: list[dict[str, Any]] = []
    for number in range(1, effort.rounds + 1):
        at = begun + timedelta(seconds=60 * number)
        common = {"model_id": model, "success": True, "global_round": number, "log": None, "status": None}
        rows.append(_row(common, at, EventType.ROUND_STARTED, {"total_rounds": effort.rounds}))
        for k, (slot, trust) in enumerate(trusts.items()):
            told = _row(
                common, at + timedelta(seconds=20 + k / 10), EventType.CLIENT_RESULT_RECEIVED, {"size_bytes": 1}
            )
            rows.append(told | {"trust_id": trust, "fl_client_name": slot})
        counts = {"returned": effort.sites, "expected": effort.sites}
        rows.append(_row(common, at + timedelta(seconds=40), EventType.ROUND_AGGREGATED, counts))
    for first in range(0, len(rows), 10_000):
        session.execute(insert(FlLog), rows[first : first + 10_000])
    session.commit()


def _row(common: Mapping[str, Any], at: datetime, event: EventType, details: Mapping[str, object]) -> dict[str, Any]:
    facts = {"occurred_at": at, "log_date": at, "event_type": event, "details": json.dumps(details)}
    return {**common, **facts, "trust_id": None, "fl_client_name": None}


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else values[0]
