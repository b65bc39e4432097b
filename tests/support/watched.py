"""A hub with a person who may look at it, and runs on it that go on as a test says."""

from __future__ import annotations

import math
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import requests

from flip_fl.hub import admin, tokens
from flip_fl.hub.roles import Role
from flip_fl.wire import new_event_id
from tests.support.browser import Browser
from tests.support.hub import KEY_HEADER, HubServer, hub_server

TRACEBACK = (
    "Traceback (most recent call last):\n"
    '  File "trainer.py", line 41, in train\n'
    "    loss = step(model, batch)\n"
    '  File "/opt/venv/lib/python3.11/site-packages/torch/nn/modules/module.py", line 1775, in _call_impl\n'
    "    return forward_call(*args, **kwargs)\n"
    "RuntimeError: CUDA out of memory. Tried to allocate <value removed>"
)
HOSPITALS = (
    ("Guy's and St Thomas' NHS Foundation Trust", "GSTT"),
    ("King's College Hospital", "KCH"),
    ("University College London Hospitals", "UCLH"),
    ("Barts Health", "BARTS"),
    ("Imperial College Healthcare", "ICHT"),
)


@dataclass
class WatchedHub:
    """A hub, its database, the address of its pages (ending in a slash), and the token of somebody who may read."""

    server: HubServer
    url: str
    pages: str
    token: str

    @property
    def reader(self) -> dict[str, str]:
        """What a program's request carries."""
        return {"Authorization": f"Bearer {self.token}"}

    def log_in(self, browser: Browser) -> None:
        """Log in by the form, as a person does; the session's cookie is the browser's from then on."""
        browser.page.goto(f"{self.pages}login?next=trusts")
        browser.page.fill("#token", self.token)
        browser.page.keyboard.press("Enter")
        browser.wait("location.pathname.endsWith('/trusts') && document.documentElement.dataset.ready")

    def run(self, name: str, sites: int = 5, project: str = "Stroke", description: str = "") -> WatchedRun:
        """A new run on slots Trust_1 to Trust_<sites>."""
        with admin.open_session(self.url) as session:
            made = admin.create_project(session, project)
            admin.seed_slots(session, sites)
            trusts = []
            for k in range(sites):
                trust = admin.create_trust(
                    session, *(HOSPITALS[k] if k < len(HOSPITALS) else (f"Hospital {k + 1}", None))
                )
                admin.assign_slot(session, trust.id)
                trusts.append(trust.id)
            model = admin.create_model(session, made.name, name, description, trusts=trusts)
        return WatchedRun(self, model.id, [f"Trust_{k + 1}" for k in range(sites)])


@dataclass
class WatchedRun:
    """One run: everything that is said of it goes over the batch route, with the time that its clock shows."""

    hub: WatchedHub
    id: UUID
    slots: Sequence[str]
    clock: datetime = field(default_factory=lambda: datetime.now(UTC))
    _random: random.Random = field(default_factory=lambda: random.Random(7))

    @property
    def page(self) -> str:
        return f"{self.hub.pages}models/{self.id}"

    def wait(self, seconds: float) -> None:
        """Let time pass for what is said next."""
        self.clock += timedelta(seconds=seconds)

    def say(self, *items: dict[str, Any]) -> None:
        """Send items in one batch; each must be stored."""
        body = {"items": [{"id": str(new_event_id()), "at": self.clock.isoformat()} | item for item in items]}
        address = f"{self.hub.server.base}/model/{self.id}/events"
        answer = requests.post(address, json=body, headers={KEY_HEADER: self.hub.server.key}, timeout=60)
        assert answer.status_code == 200, answer.text
        refused = [result for result in answer.json()["results"] if result["outcome"] != "stored"]
        assert refused == [], refused[:3]

    def status(self, status: str, reason: str | None = None) -> None:
        self.say({"kind": "status", "status": status} | ({"reason": reason} if reason else {}))

    def begin(self, **settings: str) -> None:
        """Up to RUNNING; ``settings`` are told as an FL server tells those of its job."""
        if settings:
            self.say(self.event("RUN_CONFIGURED", 1, details={"settings": settings}))
        for status in ("INITIATED", "PREPARED", "RUNNING"):
            self.status(status)
            self.wait(2)

    def start(self, number: int, total: int) -> None:
        self.say(self.event("ROUND_STARTED", number, details={"total_rounds": total}))

    def returned(self, slot: str, number: int, seconds: float = 3.0, **facts: Any) -> None:
        """The site's result has come; ``facts`` are what is told of it beside size and ``seconds``."""
        details = {"size_bytes": 2_300_000 + 1000 * len(slot), "seconds": seconds, **facts}
        self.say(self.event("CLIENT_RESULT_RECEIVED", number, client=slot, details=details))

    def aggregated(self, number: int, returned: int) -> None:
        self.say(self.event("ROUND_AGGREGATED", number, details={"returned": returned, "expected": len(self.slots)}))

    def scores(self, number: int, slots: Sequence[str] | None = None) -> None:
        items = []
        for slot in self.slots if slots is None else slots:
            k = self.slots.index(slot)
            pull = math.exp(-0.25 * number * (1 - 0.05 * (k % 5)))
            noise = self._random.gauss(0, 0.01)
            values = {"loss": 0.25 + 0.6 * pull + 0.02 * k + noise, "auc": 0.93 - 0.4 * pull - 0.01 * k + noise / 2}
            items += [self.metric(slot, label, value, number) for label, value in values.items()]
        self.say(*items)

    def round(self, number: int, total: int, *, missing: Sequence[str] = (), step: float = 40.0) -> None:
        """One whole round; every site takes its own time."""
        self.start(number, total)
        came = [slot for slot in self.slots if slot not in missing]
        spent = 0.0
        for k, slot in enumerate(came, start=1):
            takes = step * (0.3 + 0.5 * k / len(self.slots)) + self._random.random()
            self.wait(takes - spent)
            spent = takes
            self.returned(slot, number, takes - 1.5 * (k % 3), computed=(takes - 1.5 * (k % 3)) * (0.9 - 0.1 * (k % 4)))
        self.wait(2)
        self.aggregated(number, len(came))
        self.wait(2)
        self.scores(number, came)

    def fail(self, slot: str, number: int, text: str = TRACEBACK) -> None:
        self.say({"kind": "log", "client": slot, "log": text, "success": False, "global_round": number})

    @staticmethod
    def event(event_type: str, number: int, **facts: Any) -> dict[str, Any]:
        return {"kind": "event", "event_type": event_type, "global_round": number, **facts}

    @staticmethod
    def metric(slot: str, label: str, value: float, number: int, **facts: Any) -> dict[str, Any]:
        told = {"client": slot, "label": label, "result": value, "global_round": number, "task": "validate"}
        return {"kind": "metric", **told, **facts}


@contextmanager
def hub_with_pages(url: str, port: int = 0) -> Iterator[WatchedHub]:
    """A hub on an initialised database, and a token of a viewer of all its projects."""
    with admin.open_session(url) as session:
        token = tokens.issue(session, f"Ada Lovelace {new_event_id()}", Role.VIEWER).secret
    with hub_server(url, port=port) as server:
        yield WatchedHub(server, url, server.base.removesuffix("api"), token)


@contextmanager
def watched_hub(template: Path, folder: Path) -> Iterator[WatchedHub]:
    """A hub on a copy of an initialised SQLite database."""
    path = folder / "hub.sqlite"
    shutil.copy(template, path)
    with hub_with_pages(f"sqlite:///{path}") as hub:
        yield hub
