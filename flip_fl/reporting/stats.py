"""Reading an outbox from outside, live or dead: what ``flip-fl doctor`` shows."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from flip_fl.reporting.locks import is_locked
from flip_fl.reporting.records import Lane

READ_WAIT_S = 1.0


@dataclass(frozen=True)
class OutboxStats:
    """What stands in one outbox file. Times are UTC, ages in seconds; ``sending``: a live process is its sender.

    ``losses`` are all that were ever counted, by reason, ``unreported`` those that the hub has not heard of;
    ``dead`` counts what was set aside, by the hub's code; ``cause`` says that the run's end is known but its
    terminal status is not in the lanes yet; ``ending`` that it is; ``delivered``: the hub has the terminal status.
    """

    path: Path
    state: Literal["ok", "missing", "unreadable"]
    sending: bool = False
    depth: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    oldest_age_s: float | None = None
    last_ack: datetime | None = None
    last_error: str | None = None
    last_error_at: datetime | None = None
    paused: str | None = None
    losses: dict[str, int] = field(default_factory=dict)
    unreported: int = 0
    dead: dict[str, int] = field(default_factory=dict)
    cause: bool = False
    ending: bool = False
    delivered: bool = False

    @property
    def pending(self) -> int:
        """Records that the hub does not have yet."""
        return sum(self.depth.values())


def find_outboxes(paths: list[Path]) -> list[Path]:
    """The outbox files among ``paths``: files as given; of folders those in them, in ``outbox/`` or ``state/outbox/``.

    So a state folder, a run's folder and a folder of outboxes may all be named. An outbox is named after its model.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            for folder in (path, path / "outbox", path / "state" / "outbox"):
                found += sorted(file for file in folder.glob("*.sqlite") if _is_model_id(file.stem))
        else:
            found.append(path)
    return list(dict.fromkeys(found))


def _is_model_id(text: str) -> bool:
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False


def read_stats(path: Path) -> OutboxStats:
    """Read ``path`` without writing to it or disturbing its sender. Never raises: a bad file is a state."""
    path = Path(path)
    if not path.is_file():
        return OutboxStats(path, "missing")
    try:
        uri = f"{path.absolute().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=READ_WAIT_S, isolation_level=None)) as sql:
            return _read(path, sql)
    except (sqlite3.Error, ValueError):
        return OutboxStats(path, "unreadable")


def _read(path: Path, sql: sqlite3.Connection) -> OutboxStats:
    sql.execute("BEGIN")
    meta = {str(key): str(value) for key, value in sql.execute("SELECT key, value FROM meta")}
    lanes = sql.execute("SELECT lane, rows, bytes FROM lanes ORDER BY lane").fetchall()
    oldest = sql.execute("SELECT created_ms FROM pending ORDER BY seq LIMIT 1").fetchone()
    ending = sql.execute("SELECT 1 FROM pending WHERE terminal LIMIT 1").fetchone()
    losses = sql.execute("SELECT reason, count, reported FROM losses ORDER BY reason").fetchall()
    dead = sql.execute("SELECT code, count(*) FROM dead GROUP BY code ORDER BY code").fetchall()
    return OutboxStats(
        path,
        "ok",
        sending=is_locked(path.with_name(path.name + ".lock")),
        depth={Lane(lane).name.lower(): int(rows) for lane, rows, _ in lanes},
        size_bytes=sum(int(size) for _, _, size in lanes),
        oldest_age_s=None if oldest is None else max(0.0, time.time() - oldest[0] / 1000),
        last_ack=_time(meta.get("last_ack_ms")),
        last_error=meta.get("last_error"),
        last_error_at=_time(meta.get("last_error_ms")),
        paused=meta.get("paused"),
        losses={str(reason): int(count) for reason, count, _ in losses},
        unreported=sum(int(count) - int(reported) for _, count, reported in losses),
        dead={str(code): int(count) for code, count in dead},
        cause="cause" in meta,
        ending=ending is not None,
        delivered="delivered" in meta,
    )


def _time(millis: str | None) -> datetime | None:
    return None if millis is None else datetime.fromtimestamp(int(millis) / 1000, UTC)
