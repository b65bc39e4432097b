"""Runs whose process went down with an earlier FL server: the one that starts, or stops, tells the hub of their end.

A run tells its own end. One that was killed with its server cannot, and no engine takes it up again by itself: without
this the hub would show it as running until somebody looks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection
from pathlib import Path
from uuid import UUID

from flip_fl.errors import FlipError
from flip_fl.jobs.hub_model import HubAway, HubModel
from flip_fl.reporting.session import OUTBOX_FOLDER, open_reporting, sync
from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.settings import ServerSettings

logger = logging.getLogger("flip_fl.jobs")

# As a lost engine's end begins: `flip-fl job watch` puts it right where the engine knows that a person stopped the run.
STARTED_ANEW = "ended by the engine: the FL server was lost and started anew while the run was going on"
STOPPED_IN_RUN = "ended by the engine: the FL server was stopped while the run was going on"
# A run's process may outlive its server for a while, and has its own word then.
PATIENCE_S = 120.0
CLOSE_TIMEOUT_S = 10.0
POLL_S = 1.0


def end_lost_runs(
    state: Path,
    settings: ServerSettings,
    reason: str,
    *,
    models: Collection[UUID] | None = None,
    patience_s: float = PATIENCE_S,
    stop: threading.Event,
) -> list[UUID]:
    """End as ERROR, with ``reason``, what began to report from ``state`` and has neither an end nor a process.

    ``models``: only theirs. A run whose process lives is waited for, all of them ``patience_s`` at most or until
    ``stop``. One that knew its end, and did not live to tell it, has its own; one that the hub knows to have ended is
    left as it is. Never raises for a single bad file.
    """
    ended: list[UUID] = []
    waiting = [path for path in find_outboxes([state / OUTBOX_FOLDER]) if models is None or UUID(path.stem) in models]
    deadline = time.monotonic() + patience_s
    while waiting:
        waiting = [path for path in waiting if not _over(path, settings, state, reason, ended)]
        if not waiting or time.monotonic() >= deadline or stop.wait(POLL_S):
            break
    return ended


def _over(path: Path, settings: ServerSettings, state: Path, reason: str, ended: list[UUID]) -> bool:
    """Whether nothing more is to be done about this outbox."""
    stats = read_stats(path)
    if stats.state != "ok" or stats.delivered:
        return True
    if stats.sending:
        return False
    model_id = UUID(path.stem)
    try:
        if stats.cause or stats.ending or known_to_be_over(model_id, settings):
            sync([path], settings, timeout_s=CLOSE_TIMEOUT_S)
        else:
            end_lost_run(model_id, settings, state, reason)
            ended.append(model_id)
    except FlipError as error:
        logger.error("the end of a lost run could not be told: FLIP-%s %s", error.code, error.what)
    return True


def end_lost_run(model_id: UUID, settings: ServerSettings, state: Path, reason: str) -> None:
    """End one run as ERROR. Raises ``FlipError`` E0412."""
    reporting = open_reporting(settings, model_id, state)
    try:
        reporting.lifecycle.fail(reason)
        reporting.lifecycle.finish()
    finally:
        reporting.close(CLOSE_TIMEOUT_S)
    logger.warning("model %s: %s", model_id, reason)


def known_to_be_over(model_id: UUID, settings: ServerSettings) -> bool:
    """Whether the hub says that the run has ended. False where it says nothing, or may not be asked."""
    hub = HubModel(settings, model_id)
    try:
        return hub.state().status.is_terminal
    except (FlipError, HubAway):
        return False
    finally:
        hub.close()
