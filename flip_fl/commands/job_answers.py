"""What ``flip-fl job …`` answers under ``--json``."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar
from uuid import UUID


@dataclass(frozen=True)
class JobWatched:
    """``flip-fl job watch``. ``engine_state`` is the engine's last word, null when it was not asked; ``written`` says
    that this watchdog told the hub the end."""

    SCHEMA: ClassVar[str] = "flip-fl.job-watch/1"
    model_id: UUID
    engine: str
    run: str
    engine_state: str | None
    status: str
    words: str
    reason: str | None
    written: bool
    note: str | None


@dataclass(frozen=True)
class JobSubmitted:
    """``flip-fl job submit``. ``already``: the same job was there and has not ended."""

    SCHEMA: ClassVar[str] = "flip-fl.job-submit/1"
    job: str
    model_id: UUID
    engine: str
    sites: list[str]
    rounds: int
    already: bool


@dataclass(frozen=True)
class JobRow:
    """A job of a federation. ``model_id`` is null for one that flip-fl did not submit; ``seconds``: how long it ran."""

    job: str
    model_id: UUID | None
    state: str
    details: str
    submitted_at: datetime | None
    seconds: float | None


@dataclass(frozen=True)
class Jobs:
    """``flip-fl job list``, the newest first."""

    SCHEMA: ClassVar[str] = "flip-fl.job-list/1"
    engine: str
    jobs: list[JobRow]


@dataclass(frozen=True)
class JobAborted:
    """``flip-fl job abort``. ``state`` is the engine's last word; ``hub_told``: the hub knows the end, else why not."""

    SCHEMA: ClassVar[str] = "flip-fl.job-abort/1"
    job: str
    model_id: UUID | None
    state: str
    hub_told: bool
    why_not: str | None
    already: bool


@dataclass(frozen=True)
class JobLogs:
    """``flip-fl job logs``: what the job's part at the server wrote."""

    SCHEMA: ClassVar[str] = "flip-fl.job-logs/1"
    job: str
    log: str
