"""What ``flip-fl doctor`` says of outboxes: how much waits, how long, and what was lost, by reason."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flip_fl.commands.answers import Check, CheckState, OutboxRow
from flip_fl.reporting.stats import OutboxStats, find_outboxes

OLD_EVENT_S = 600.0


def files(paths: list[Path]) -> list[Path]:
    """The outbox files that ``paths`` mean: files as given; of a folder those in its ``outbox/``, wherever that is."""
    wanted: list[Path] = []
    for path in paths:
        # A run's folder holds the hub's database, too, which is no outbox.
        below = [folder for folder in (path / "outbox", path / "state" / "outbox") if folder.is_dir()]
        wanted += below or ([] if path.is_dir() and path.name != "outbox" else [path])
    return find_outboxes(wanted)


def row(stats: OutboxStats) -> OutboxRow:
    """The same facts for programs."""
    return OutboxRow(
        path=stats.path,
        state=stats.state,
        sending=stats.sending,
        waiting=stats.depth,
        size_bytes=stats.size_bytes,
        oldest_age_s=stats.oldest_age_s,
        last_ack=stats.last_ack,
        last_error=stats.last_error,
        last_error_at=stats.last_error_at,
        paused=stats.paused,
        losses=stats.losses,
        unreported=stats.unreported,
        refused=stats.dead,
    )


def check(stats: OutboxStats) -> Check:
    """What is to be said of one outbox, how bad it is, and what to do."""
    name = f"outbox {stats.path.stem}"
    sync = f"flip-fl sync {stats.path}"
    if stats.state != "ok":
        return Check(name, "fail", f"{stats.path} is {stats.state}", "what it held cannot be sent", "keep the file")
    what = _what(stats)
    lost = _counts(stats.losses)
    refused = _counts(stats.dead)
    parts = [f"sending is paused: {stats.paused}"] if stats.paused else []
    parts += [f"lost: {lost}"] if lost else []
    parts += [f"refused by the hub: {refused}"] if refused else []
    error = _error(stats) if stats.pending and not stats.paused else None
    why = "; ".join([*parts, *([error] if error else [])]) or None
    if stats.paused:
        return Check(name, "fail", what, why, "flip-fl doctor --hub --keys")
    left = sync if stats.pending and not stats.sending else None
    old = left is not None and (stats.oldest_age_s or 0.0) > OLD_EVENT_S
    state: CheckState = "warn" if lost or refused or old else "ok"
    return Check(name, state, what, why, left)


def _what(stats: OutboxStats) -> str:
    waiting = f"{stats.pending} waiting"
    if stats.pending:
        waiting += f" ({_counts(stats.depth)})"
    if stats.pending and stats.oldest_age_s is not None:
        waiting += f", oldest {age(stats.oldest_age_s)}"
    acknowledged = f"last acknowledged {_ago(stats.last_ack)}" if stats.last_ack else "nothing acknowledged yet"
    return f"{waiting}; {acknowledged}" + ("; being sent" if stats.sending else "")


def _error(stats: OutboxStats) -> str | None:
    if stats.last_error is None:
        return None
    return f"last error: {stats.last_error}" + (f" ({_ago(stats.last_error_at)})" if stats.last_error_at else "")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counted.items() if count)


def age(seconds: float) -> str:
    """A duration in the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _ago(at: datetime) -> str:
    return f"{age((datetime.now(UTC) - at).total_seconds())} ago"
