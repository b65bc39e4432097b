"""What ``flip-fl doctor`` says of outboxes: how much waits, how long, and what was lost, by reason."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flip_fl.commands.answers import Check, CheckState
from flip_fl.reporting.stats import OutboxStats, find_outboxes, read_stats

OLD_EVENT_S = 600.0


def checks(folder: Path) -> list[Check]:
    """One check for every outbox of ``folder``, a state folder or a run's folder."""
    return [_check(read_stats(path)) for path in files([folder])]


def files(paths: list[Path]) -> list[Path]:
    """The outbox files that ``paths`` mean: files as given; of a folder those in its ``outbox/``, wherever that is."""
    wanted: list[Path] = []
    for path in paths:
        # A run's folder holds the hub's database, too, which is no outbox.
        below = [folder for folder in (path / "outbox", path / "state" / "outbox") if folder.is_dir()]
        wanted += below or ([] if path.is_dir() and path.name != "outbox" else [path])
    return find_outboxes(wanted)


def _check(stats: OutboxStats) -> Check:
    name = f"outbox {stats.path.stem}"
    sync = f"flip-fl sync {stats.path}"
    if stats.state != "ok":
        return Check(name, "fail", f"{stats.path} is {stats.state}", "what it held cannot be sent", "keep the file")
    what = _what(stats)
    if stats.paused:
        return Check(name, "fail", what, f"sending is paused: {stats.paused}", "flip-fl doctor --hub --keys")
    lost = _counts(stats.losses)
    refused = _counts(stats.dead)
    if lost or refused:
        parts = [f"lost: {lost}"] if lost else []
        parts += [f"refused by the hub: {refused}"] if refused else []
        why = "; ".join(parts)
        return Check(name, "warn", what, why, sync if stats.pending else None)
    if stats.pending and not stats.sending:
        old = (stats.oldest_age_s or 0.0) > OLD_EVENT_S
        state: CheckState = "warn" if old else "ok"
        return Check(name, state, what, _error(stats), sync)
    return Check(name, "ok", what, _error(stats) if stats.pending else None)


def _what(stats: OutboxStats) -> str:
    waiting = f"{stats.pending} waiting"
    if stats.pending and stats.oldest_age_s is not None:
        waiting += f", oldest {age(stats.oldest_age_s)}"
    acknowledged = f"last acknowledged {_ago(stats.last_ack)}" if stats.last_ack else "nothing acknowledged yet"
    return f"{waiting}; {acknowledged}" + ("; being sent" if stats.sending else "")


def _error(stats: OutboxStats) -> str | None:
    if stats.last_error is None:
        return None
    return f"last error: {stats.last_error}" + (f" ({_ago(stats.last_error_at)})" if stats.last_error_at else "")


def _counts(counted: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counted.items()) if count)


def age(seconds: float) -> str:
    """A duration in the unit that people would use."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


def _ago(at: datetime) -> str:
    return f"{age((datetime.now(UTC) - at).total_seconds())} ago"
