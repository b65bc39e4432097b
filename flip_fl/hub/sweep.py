"""The hub's rule for runs that fell silent: after a time that an operator sets they end as ERROR and free their net."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlmodel import Session

from flip_fl.dashboard.words import clock, span
from flip_fl.hub.intake import take_status
from flip_fl.hub.model_service import lock_model
from flip_fl.hub.silence import SWEEP, Silent, silent_runs
from flip_fl.values import ModelStatus


def sweep(session: Session, after: timedelta, now: datetime, *, dry_run: bool = False) -> list[Silent]:
    """End the runs that were silent for longer than ``after``, each in a transaction of its own; returns them.

    What is reported of such a run later is kept, and a later status still counts: the run's own word is the truth.
    ``dry_run`` changes nothing. Several processes may sweep at once: each run is ended by one of them.
    """
    found = silent_runs(session, after, now)
    session.commit()
    return found if dry_run else [run for run in found if _end(run, session, after, now)]


def _end(run: Silent, session: Session, after: timedelta, now: datetime) -> bool:
    model = lock_model(run.model_id, session)
    # Between the look and the lock it may have reported, ended, or been ended by another sweep.
    if model is None or not silent_runs(session, after, now, run.model_id):
        session.rollback()
        return False
    take_status(model, ModelStatus.ERROR, session, by=SWEEP, reason=reason(run, after, now), at=now)
    session.commit()
    return True


def reason(run: Silent, after: timedelta, now: datetime) -> str:
    """Why a run was ended, for its story."""
    return (
        f"no news from the FL server since {clock(run.since, now)}; "
        f"the hub ends runs that are silent for {span(after)} (FLIP_HUB_STALE_ERROR_AFTER_S)"
    )
