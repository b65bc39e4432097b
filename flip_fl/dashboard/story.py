"""The one document that the page and the report are drawn from (``story.json``).

The hub builds it from its tables, the simulator adds the baselines, the page draws it. Times are ISO 8601 in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from flip_fl.values import ModelStatus

SCHEMA = "flip-fl.story/1"

CellState = Literal["returned", "late", "failed", "missed", "not_asked"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class StoryModel(_Part):
    """Which run this is."""

    id: str
    name: str
    description: str = ""
    project: str = ""


class Transition(_Part):
    """One status change, or a late one that was ignored (``applied`` false)."""

    at: datetime
    previous: ModelStatus | None
    status: ModelStatus
    by: str
    reason: str | None = None
    applied: bool = True


class StorySite(_Part):
    """A participating slot, in natural order, and the trust that holds it."""

    slot: str
    trust: str
    code: str | None = None
    last_seen: datetime | None = None


class Cell(_Part):
    """What one site did in one round. ``size_bytes`` is the result's size, ``seconds`` since the round began."""

    slot: str
    state: CellState
    at: datetime | None = None
    size_bytes: int | None = None
    seconds: float | None = None


class StoryRound(_Part):
    """One round; its cells always add up to the participating sites."""

    number: int
    started_at: datetime | None = None
    aggregated_at: datetime | None = None
    returned: int | None = None
    expected: int | None = None
    cells: list[Cell] = []


class Point(_Part):
    """One measured value; ``y`` is None where a value was refused as not finite."""

    x: float
    y: float | None
    round: int


class Series(_Part):
    """One site's points in stable x order; ``name`` is what people read."""

    slot: str
    name: str
    points: list[Point]


class Plot(_Part):
    """One metric on one axis: identified by (label, x_label)."""

    label: str
    x_label: str
    series: list[Series]


class FeedRow(_Part):
    """One line of the activity feed, worded by the hub. ``kind``: status, round, result, aggregated, log, failure, event."""

    id: int
    at: datetime
    kind: str
    text: str
    success: bool = True
    slot: str | None = None
    round: int | None = None


class Failure(_Part):
    """Equal failures of several sites are one entry; ``detail`` is the full text, values removed at the site."""

    at: datetime
    headline: str
    detail: str
    slots: list[str]
    round: int | None = None
    task: str | None = None


class StoredResults(_Part):
    """Where the bundle lies and what it is."""

    address: str
    at: datetime
    size_bytes: int | None = None
    sha256: str | None = None


class BaselineRow(_Part):
    """One model scored on one site's held-out patients: the global, a site's own, or the centrally trained one."""

    model: str
    scored_on: str
    metrics: dict[str, float]


class Story(_Part):
    """Everything that can be told about a run."""

    schema_: str = SCHEMA
    generated_at: datetime
    model: StoryModel
    status: ModelStatus
    reason: str | None = None
    total_rounds: int | None = None
    history: list[Transition] = []
    sites: list[StorySite] = []
    rounds: list[StoryRound] = []
    plots: list[Plot] = []
    feed: list[FeedRow] = []
    failures: list[Failure] = []
    results: StoredResults | None = None
    baselines: list[BaselineRow] = []
