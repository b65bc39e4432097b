"""What the hub says in words: one sentence for every status and every typed event. Senders report facts only."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from flip_fl.values import EventType, ModelStatus, Task

STATUS_SENTENCES: Mapping[ModelStatus, str] = {
    ModelStatus.INITIATED: "The run was queued.",
    ModelStatus.PREPARED: "The run is prepared: the initial model and the sites are ready.",
    ModelStatus.RUNNING: "The sites have started to work.",
    ModelStatus.RESULTS_UPLOADED: "The run has finished and its results are stored.",
    ModelStatus.ERROR: "The run has failed.",
    ModelStatus.STOPPED: "The run was stopped.",
    ModelStatus.RESULTS_UPLOAD_FAILED: "The run has finished, but its results could not be stored.",
}

# As the column of a metric's stage has it.
MAX_STAGE = 64
EVALUATE = Task.EVALUATE.value
UNREADABLE = "[this row cannot be shown]"
_UNITS = ("B", "kB", "MB", "GB", "TB")


def event_text(event_type: str, *, global_round: int | None, details: Mapping[str, Any], who: str | None) -> str:
    """One typed event in words; ``who`` is what people call its trust. An unknown type is named as it is."""
    stage = stage_of(details)
    staged = f" ({stage})" if stage else ""
    run = f"Round {global_round}" if global_round is not None else "The run"
    round_ = run + staged
    site = who or "a site"
    if details.get("task") == EVALUATE and global_round is not None:
        told = _evaluation_text(event_type, global_round, details, site)
        if told is not None:
            return told
    match event_type:
        case EventType.RUN_CONFIGURED:
            settings = settings_of(details)
            return f"The run's settings are known: {len(settings)} of them" if settings else "The run's settings"
        case EventType.SITES_AWAITED:
            there, needs = details.get("there"), whole(details.get("needs"))
            connected = len(there) if isinstance(there, list) else 0
            return f"The run waits for its sites: {connected} connected" + (f", {needs} needed" if needs else "")
        case EventType.ROUND_STARTED:
            total = whole(details.get("total_rounds"))
            return f"{run} of {total}{staged} started" if total is not None else f"{round_} started"
        case EventType.CLIENT_RESULT_RECEIVED:
            return f"{round_} · {site} returned weights{_sized(details)}{_timed(details)}"
        case EventType.ROUND_AGGREGATED:
            returned, expected = whole(details.get("returned")), whole(details.get("expected"))
            counts = f": {returned} of {expected} sites returned" if None not in (returned, expected) else ""
            return f"{round_} aggregated{counts}"
        case EventType.UPDATES_COMPARED:
            sites = details.get("sites")
            count = f" of {len(sites)} sites" if isinstance(sites, dict) and len(sites) > 1 else ""
            return f"{round_} · updates{count} compared"
        case EventType.JOB_WAITING_FOR_RESOURCES:
            return _waiting(site, details)
        case EventType.QUEUE_POSITION:
            position = whole(details.get("position"))
            return f"Queued at position {position}" if position is not None else "Queued"
        case EventType.RESULTS_STORED:
            address = details.get("address")
            return f"Results stored{_sized(details)}" + (f" at {address}" if address else "")
        case _:
            parts = [event_type]
            if global_round is not None:
                parts.append(f"round {global_round}")
            if who is not None:
                parts.append(who)
            if details:
                parts.append(json.dumps(details, ensure_ascii=False))
            return " · ".join(parts)


def _evaluation_text(event_type: str, number: int, details: Mapping[str, Any], site: str) -> str | None:
    """What happens in a round in which sites score one model; None for an event that is worded as ever."""
    model = f"Model {number}" + (f" ({details['stage']})" if isinstance(details.get("stage"), str) else "")
    match event_type:
        case EventType.ROUND_STARTED:
            total = whole(details.get("total_rounds"))
            return f"{model}{f' of {total}' if total is not None else ''}: evaluation started"
        case EventType.CLIENT_RESULT_RECEIVED:
            return f"{model} · {site} returned its scores{_timed(details)}"
        case EventType.ROUND_AGGREGATED:
            returned, expected = whole(details.get("returned")), whole(details.get("expected"))
            if None in (returned, expected):
                return f"{model} evaluated"
            return f"{model} evaluated: {returned} of {expected} sites returned" if expected else f"{model} is left out"
        case _:
            return None


def settings_of(details: Mapping[str, Any]) -> dict[str, str]:
    """The settings that a sender tells, as texts; none where it tells something else."""
    told = details.get("settings")
    return {k: v for k, v in told.items() if isinstance(v, str)} if isinstance(told, Mapping) else {}


def size_text(size: int) -> str:
    """A number of bytes as people read it: ``2.3 MB``."""
    value = float(size)
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the loop ends at the last unit")


def whole(value: object) -> int | None:
    """``value`` if it is a whole number of at least 0, as details should hold; else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def stage_of(details: Mapping[str, Any]) -> str | None:
    """The stage of its job that an event belongs to; None where details name none that can be shown."""
    stage = details.get("stage")
    return stage[:MAX_STAGE] if isinstance(stage, str) and stage.strip() else None


def _sized(details: Mapping[str, Any]) -> str:
    size = whole(details.get("size_bytes"))
    return "" if size is None else f", {size_text(size)}"


def _timed(details: Mapping[str, Any]) -> str:
    seconds = details.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        return ""
    return f" in {seconds:.1f} s" if seconds < 100 else f" in {seconds:.0f} s"


def _waiting(site: str, details: Mapping[str, Any]) -> str:
    attempt, most = whole(details.get("attempt")), whole(details.get("max_attempts"))
    count = f", attempt {attempt} of {most}" if None not in (attempt, most) else ""
    requested = details.get("requested")
    wish = f" (requested: {json.dumps(requested, ensure_ascii=False)})" if requested else ""
    last = "; this was the last attempt" if details.get("final") is True else ""
    return f"Waiting for resources at {site}{count}{wish}{last}"
