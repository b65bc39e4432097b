"""What a hub was told of a run, made comparable between runs, and trouble made while a run goes on."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest
from sqlmodel import col, select

from flip_fl.app.forks import Fork
from flip_fl.data.paths import UPLOAD
from flip_fl.hub import admin
from flip_fl.hub.tables import EventLedger, FlLog, FlMetric, StatusHistory
from flip_fl.reporting.stats import find_outboxes
from flip_fl.simulate.model import Progress, RunOutcome
from flip_fl.values import EventType
from tests.support import warm

SERVER = "the FL server"
# Flower shows it in every run of the suite; the same on NVFLARE takes half a minute a run.
EITHER_ENGINE = [pytest.param("nvflare", marks=pytest.mark.soak), "flower"]
_OWN = re.compile(r"^\d+(?= lines that the app printed)")


@dataclass(frozen=True)
class Told:
    """All that a hub holds of one run but times, ids and the run's own names; each list in order.

    ``rows``: by who said it, as the feed shows them. ``metrics``: by slot, as they were stored. Who of two sites comes
    first in a round is chance, and no part of this.
    """

    statuses: list[tuple[Any, ...]]
    rows: dict[str, list[tuple[Any, ...]]]
    metrics: dict[str, list[tuple[Any, ...]]]
    ids: int
    not_applied: int


class OnEngines(dict[str, RunOutcome]):
    """One job's run on each engine that is asked for: engine → outcome."""

    def __init__(self, launch: Callable[[str], RunOutcome]) -> None:
        super().__init__()
        self._launch = launch

    def __missing__(self, engine: str) -> RunOutcome:
        self[engine] = self._launch(engine)
        return self[engine]


def told(database: Path, model_id: UUID) -> Told:
    """What the hub's SQLite ``database`` holds of ``model_id``."""
    with admin.open_session(f"sqlite:///{database}") as session:
        history = session.exec(
            select(StatusHistory).where(StatusHistory.model_id == model_id).order_by(col(StatusHistory.id))
        ).all()
        logs = session.exec(
            select(FlLog).where(FlLog.model_id == model_id).order_by(col(FlLog.occurred_at), col(FlLog.id))
        ).all()
        metrics = session.exec(select(FlMetric).where(FlMetric.model_id == model_id).order_by(col(FlMetric.id))).all()
        ledger = session.exec(select(EventLedger.applied).where(EventLedger.model_id == model_id)).all()
        rows: dict[str, list[tuple[Any, ...]]] = {}
        for row in logs:
            if row.event_type == EventType.SITES_AWAITED:
                continue  # how long sites take to come is chance
            text = _OWN.sub("…", row.log or "")
            what = (row.success, row.status, row.event_type, row.global_round, _details(row), text)
            rows.setdefault(row.fl_client_name or SERVER, []).append(what)
        points: dict[str, list[tuple[Any, ...]]] = {}
        for each in metrics:
            place = (each.global_round, each.task, each.stage, each.label, each.x_label, each.x_value)
            points.setdefault(each.fl_client_name or "", []).append((*place, each.result))
        return Told(
            [(each.previous, each.status, each.by, each.reason) for each in history],
            rows,
            points,
            len(ledger),
            sum(not applied for applied in ledger),
        )


def raises_marked(mark: Path, statement: str) -> str:
    """``statement``, which fails, on one line for an app: the first to come there makes the file ``mark`` before it."""
    return f"import pathlib; mark = pathlib.Path({str(mark)!r}); mark.exists() or mark.touch(); {statement}"


def until_the_hub_knew(run: Path, words: str, mark: Path) -> float:
    """Seconds from the making of ``mark`` to the first failure with ``words`` that the hub of ``run`` has stored.

    By the hub's clock, which is this machine's; infinite where it has none.
    """
    with admin.open_session(f"sqlite:///{run / 'hub.sqlite'}") as session:
        found = session.exec(
            select(FlLog.log_date).where(col(FlLog.success).is_(False), col(FlLog.log).contains(words))
        ).all()
    return min((each.timestamp() for each in found), default=float("inf")) - mark.stat().st_mtime


def at_this_load(seconds: float) -> float:
    """``seconds``, and where more wants to run than there are cores, that much longer."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def _details(row: FlLog) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(row.details or "{}")
    for measured in ("seconds", "computed", "clock"):
        details.pop(measured, None)
    if row.event_type == EventType.RESULTS_STORED:
        # The bundle's manifest names the model, so that not even its size is the same.
        return dict.fromkeys(details, "…")
    return details


def stored_ids(database: Path, model_id: UUID) -> set[UUID]:
    """The ids of everything that the hub has stored."""
    with admin.open_session(f"sqlite:///{database}") as session:
        return set(session.exec(select(EventLedger.event_id).where(EventLedger.model_id == model_id)))


def pending(outbox: Path) -> list[tuple[UUID, dict[str, Any]]]:
    """What an outbox holds, also while its run is live: ids and bodies, in the order in which they were kept."""
    with contextlib.closing(sqlite3.connect(f"file:{outbox}?mode=ro", uri=True, timeout=10)) as sql:
        rows = sql.execute("SELECT id, body FROM pending ORDER BY seq").fetchall()
    # Metrics that were made together are one row: their objects with commas between them.
    items = [item for _, body in rows for item in json.loads(f"[{body}]")]
    return [(UUID(item["id"]), item) for item in items]


def processes_in(folder: Path) -> list[psutil.Process]:
    """The live processes that name ``folder`` in their command line or environment, or are in it."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values(), process.cwd()]
            if any(str(folder) in word for word in words):
                found.append(process)
    return found


def site_processes(out: Path, slot: str) -> set[int]:
    """The process of a site, if it is there: NVFLARE's command line names it, the in-process grid's log does."""
    named = [process.pid for process in processes_in(out) if ("--client", slot) in pairwise(process.cmdline())]
    log = out / "logs" / f"{slot}.log"
    said = re.findall(rf"{slot} is process (\d+)", log.read_text() if log.is_file() else "")
    return {*named, *map(int, said)}


def processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that a run in ``folder`` has left behind, after some patience."""
    deadline = time.monotonic() + 60
    while (found := processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return [str(process) for process in found]


def studies_in(images: Path) -> list[str]:
    """The studies in a net's folder of images, which is also that of its uploads."""
    return sorted(path.name for path in images.iterdir() if path.name != UPLOAD)


def holders(path: Path) -> list[psutil.Process]:
    """The processes beside this one that have ``path`` open."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        with contextlib.suppress(psutil.Error):
            if any(each.path == str(path) for each in process.open_files()):
                found.append(process)
    return found


class Trouble:
    """Something done to a run beside it: give it to ``run`` as its progress.

    ``work`` begins when the engine is about to start. ``end`` waits for it and raises what it has raised.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def __call__(self, progress: Progress) -> None:
        if progress.stage == "start" and self._thread.ident is None:
            self._thread.start()

    def end(self, timeout_s: float = 120.0) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the trouble did not come to its end"
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self._error = error


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 120.0, poll_s: float = 0.05) -> None:
    """Poll until ``condition`` holds; fails the test after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:.0f} s"
        time.sleep(poll_s)


@dataclass
class ServerKill:
    """Kills the FL server's process of the run in ``out`` as soon as its outbox holds the begin of round ``number``.

    ``acknowledged`` is what the outbox held at that moment.
    """

    out: Path
    number: int
    acknowledged: list[tuple[UUID, dict[str, Any]]] = field(default_factory=list)

    def __call__(self) -> None:
        wait_for(self._begun, f"the begin of round {self.number}")
        (outbox,) = find_outboxes([self.out / "state" / "outbox"])
        (server,) = holders(outbox)
        # Stopped before the look: what it holds is then neither more nor less than what it was told is kept.
        os.kill(server.pid, signal.SIGSTOP)
        wait_for(lambda: server.status() == psutil.STATUS_STOPPED, "the stop")
        self.acknowledged = pending(outbox)
        os.kill(server.pid, signal.SIGKILL)

    def _begun(self) -> bool:
        with contextlib.suppress(sqlite3.Error):
            for outbox in find_outboxes([self.out / "state" / "outbox"]):
                for _, item in pending(outbox):
                    if item.get("event_type") == EventType.ROUND_STARTED and item["global_round"] == self.number:
                        return True
        return False


@dataclass
class HubKills:
    """Kills the hub of the run in ``out`` again and again and starts it each time on its port, with its database.

    It begins when the file ``begin`` is there, and makes ``done`` when the last one answers, which ``close`` ends.
    """

    out: Path
    kills: int
    begin: Path
    done: Path
    killed: int = 0
    _port: int = 0
    _last: Fork | None = None

    def __call__(self) -> None:
        dice = random.Random(self.kills)
        conf = self.out / "state" / "settings" / "hub.env"
        self._port = int((self.out / "state" / "hub.port").read_text())
        first = warm.hubs[conf]
        wait_for(self.begin.exists, "the begin")
        for _ in range(self.kills):
            time.sleep(dice.uniform(0.05, 1.0))
            if self._last is None:
                first.kill()
                first.wait()
            else:
                self.close()
            self.killed += 1
            with (self.out / "logs" / "hub.log").open("ab") as log:
                self._last = warm.hub(conf, "--port", str(self._port), output=log.fileno())
            wait_for(self._answers, "the hub's start")
        self.done.touch()

    def close(self) -> None:
        if self._last is not None:
            self._last.kill()
            self._last.wait(30)
            self._last.close()

    def _answers(self) -> bool:
        with contextlib.closing(socket.socket()) as probe:
            probe.settimeout(0.2)
            return probe.connect_ex(("127.0.0.1", self._port)) == 0
