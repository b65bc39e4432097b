"""What people read for what is stored: one table for the command line and the page.

Machine words stay UPPER_CASE in JSON and are never shown alone. A state is always said in words; its tone only adds
a colour and an icon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Literal

from flip_fl.values import ModelStatus

Tone = Literal["quiet", "active", "good", "warn", "bad"]


@dataclass(frozen=True)
class StateWords:
    """A state as people read it: ``word`` alone fits a table, ``text`` is the full sentence."""

    word: str
    detail: str
    tone: Tone

    @property
    def text(self) -> str:
        """``word``, and the detail after a dash or the words that already join it."""
        if not self.detail:
            return self.word
        joiner = " " if self.detail.startswith(("in round ", "by ")) else ", " if _is_progress(self.detail) else " - "
        return f"{self.word}{joiner}{self.detail}"


@dataclass(frozen=True)
class _Entry:
    word: str
    detail: str
    tone: Tone


# PENDING is "Draft" because nothing is awaited; STOPPED never reads as a failure: a person decided it.
STATES: Mapping[ModelStatus, _Entry] = MappingProxyType(
    {
        ModelStatus.PENDING: _Entry("Draft", "", "quiet"),
        ModelStatus.INITIATED: _Entry("Queued", "", "quiet"),
        ModelStatus.PREPARED: _Entry("Preparing", "", "active"),
        ModelStatus.RUNNING: _Entry("Training", "", "active"),
        ModelStatus.RESULTS_UPLOADED: _Entry("Finished", "results ready", "good"),
        ModelStatus.RESULTS_UPLOAD_FAILED: _Entry("Finished", "results not uploaded", "warn"),
        ModelStatus.STOPPED: _Entry("Stopped", "", "quiet"),
        ModelStatus.ERROR: _Entry("Failed", "", "bad"),
    }
)

CELLS: Mapping[str, str] = MappingProxyType(
    {
        "returned": "returned",
        "late": "late: returned after the round had closed",
        "failed": "failed",
        "missed": "missed: asked, nothing came",
        "not_asked": "not asked",
    }
)

CELL_WORDS: Mapping[str, str] = MappingProxyType(
    {"returned": "Returned", "late": "Late", "failed": "Failed", "missed": "Missed", "not_asked": "Not asked"}
)

# The tab's icon; its shape is always the same, so it never says a state alone.
TONE_COLOURS: Mapping[Tone, str] = MappingProxyType(
    {"good": "#0b6b4f", "active": "#0a58a8", "warn": "#8a4b00", "bad": "#b3261e", "quiet": "#4c5a67"}
)

PICTURES = "Generated pictures"
# A model can learn a picture by heart: nobody may read this as a promise.
PICTURES_NOTE = (
    "pictures made by the uploaded model, read from no site\u2019s data. A model can come close to what it has learnt "
    "from: look at them before they are shown further."
)

KINDS: Mapping[str, str] = MappingProxyType(
    {
        "status": "Status",
        "round": "Round",
        "result": "Result",
        "aggregated": "Aggregated",
        "log": "Log",
        "failure": "Failure",
        "event": "Event",
    }
)


def state_words(
    status: ModelStatus,
    *,
    round_number: int | None = None,
    total_rounds: int | None = None,
    stage: str | None = None,
    by: str | None = None,
    cause: str | None = None,
    queue_position: int | None = None,
    queue_length: int | None = None,
    evaluating: tuple[int, int] | None = None,
    slowest: str | None = None,
) -> StateWords:
    """The words for ``status``, as exact as the facts allow.

    ``round_number`` is the last round that began (1-based), ``stage`` its stage; ``by`` who stopped the run; ``cause``
    the one cause of a failure, who first (``Trust_3: CUDA out of memory``); ``evaluating`` (sites done, sites asked)
    when sites score a model and do not train; ``slowest`` what a preparing run waits for (``Trust_2 loading data``).
    """
    entry = STATES[status]
    word, detail = entry.word, entry.detail
    staged = f" ({stage})" if stage else ""
    if status is ModelStatus.INITIATED and queue_position is not None:
        place = ordinal(queue_position)
        detail = f"{place} of {queue_length}" if queue_length else place
    elif status is ModelStatus.PREPARED:
        detail = slowest or ""
    elif status is ModelStatus.RUNNING:
        if evaluating is not None:
            word, detail = "Evaluating", f"{evaluating[0]} of {evaluating[1]} sites"
        elif round_number:
            detail = f"round {_of(round_number, total_rounds)}{staged}"
    elif status in (ModelStatus.STOPPED, ModelStatus.ERROR):
        parts = [f"by {by}"] if by and status is ModelStatus.STOPPED else []
        if round_number:
            parts.append(f"in round {round_number}{staged}")
        detail = " ".join(parts)
        if cause:
            detail = f"{detail} - {cause}" if detail else cause
    elif status is ModelStatus.RESULTS_UPLOAD_FAILED and cause:
        detail = f"{detail}: {cause}"
    return StateWords(word, detail, entry.tone)


def status_word(status: ModelStatus) -> str:
    """One or two words for ``status``, for a row of the history."""
    entry = STATES[status]
    return "Finished, not uploaded" if status is ModelStatus.RESULTS_UPLOAD_FAILED else entry.word


def site_list(names: Sequence[str], total: int | None = None) -> str:
    """``names`` as a phrase: one or two by name, more as a count (``all 7 sites`` when that is everybody)."""
    if len(names) <= 2:
        return " and ".join(names)
    return f"all {len(names)} sites" if total == len(names) else f"{len(names)} sites"


def silence(since: datetime, now: datetime, *, ends_at: datetime | None = None) -> str:
    """What is said beside the state of a run whose FL server is not heard of; ``ends_at`` is when a rule ends it."""
    text = f"No news from the FL server since {clock(since, now)} ({span(now - since)})"
    return text if ends_at is None else f"{text}; unless it reports, the run ends as failed at {clock(ends_at, now)}"


def span(duration: timedelta) -> str:
    """A duration as people say it: ``45 s``, ``12 min``, ``2 h 5 min``, ``3 d 4 h``."""
    seconds = max(0, int(duration.total_seconds()))
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            rest = seconds % size // part
            return f"{seconds // size} {unit} {rest} {smaller}" if rest else f"{seconds // size} {unit}"
    return f"{seconds // 60} min" if seconds >= 60 else f"{seconds} s"


def clock(moment: datetime, now: datetime) -> str:
    """A moment as people read it at ``now``: ``14:02 UTC``, with the day if that is another one."""
    moment, now = moment.astimezone(UTC), now.astimezone(UTC)
    return f"{moment:%H:%M} UTC" if moment.date() == now.date() else f"{moment:%Y-%m-%d %H:%M} UTC"


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def table() -> dict[str, Any]:
    """The words that the page's script needs, as plain data."""
    return {
        "tones": dict(TONE_COLOURS),
        "states": {status.value: {"word": status_word(status), "tone": STATES[status].tone} for status in STATES},
        "cells": {state: {"word": CELL_WORDS[state], "text": text} for state, text in CELLS.items()},
        "kinds": dict(KINDS),
        "pictures": {"title": PICTURES, "note": PICTURES_NOTE},
    }


def _of(number: int, total: int | None) -> str:
    return f"{number} of {total}" if total else str(number)


def _is_progress(detail: str) -> bool:
    return detail.startswith("round ") or detail[:1].isdigit()
