"""What is new in a run since a place in its rows: the page adds it to the story that it has."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, FiniteFloat

from flip_fl.dashboard.story import (
    Failure,
    FeedRow,
    Headline,
    Loss,
    Measured,
    Silence,
    Skew,
    StoredResults,
    StoryRound,
    Transition,
    UtcTime,
)
from flip_fl.values import ModelStatus


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class NewPoints(_Part):
    """New points of one series, each (x, y, round); y is None where a value was refused as not finite.

    ``again``: the round was started again, so a point that is known at the same place was measured by an earlier
    attempt.
    """

    label: str
    x_label: str
    slot: str
    name: str
    again: bool = False
    points: list[tuple[FiniteFloat, Measured, int]]


class Delta(_Part):
    """Everything that changed after ``since``, told up to ``cursor``; ``at`` is the hub's clock.

    Lists that are None did not change; ``rounds`` holds the changed ones whole, ``feed`` and ``points`` the new ones.
    ``skews`` are all that are told now, ``seen`` is when each slot of the new rows was heard of last.
    """

    since: str
    cursor: str
    at: UtcTime
    status: ModelStatus
    headline: Headline
    reason: str | None = None
    total_rounds: int | None = None
    queue_position: int | None = None
    unreachable: Silence | None = None
    history: list[Transition] | None = None
    failures: list[Failure] | None = None
    losses: list[Loss] | None = None
    skews: list[Skew] = []
    results: StoredResults | None = None
    rounds: list[StoryRound] = []
    feed: list[FeedRow] = []
    points: list[NewPoints] = []
    seen: dict[str, UtcTime] = {}


class Again(_Part):
    """What is known from before cannot be added to: the story is to be read anew."""

    again: bool = True
