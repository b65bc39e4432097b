"""Runs whose process went down with an earlier FL server: the one that starts, or stops, tells the hub of their end.

A run tells its own end. One that was killed with its server cannot, and no engine takes it up again by itself: without
this the hub would show it as running until somebody looks.
"""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from uuid import UUID

from flip_fl.errors import FlipError
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.session import OUTBOX_FOLDER, open_reporting, sync
from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.settings import ServerSettings

logger = logging.getLogger("flip_fl.reporting")

# As a lost engine's end begins: `flip-fl job watch` puts it right where the engine knows that a person stopped the run.
STARTED_ANEW = "ended by the engine: the FL server was lost and started anew while the run was going on"
STOPPED_IN_RUN = "ended by the engine: the FL server was stopped while the run was going on"
# A run's process may outlive its server for a while, and has its own word then.
PATIENCE_S = 120.0
CLOSE_TIMEOUT_S = 10.0
POLL_S = 1.0


def end_lost_runs(
    state: Path, settings: ServerSettings, reason: str, *, patience_s: float = PATIENCE_S, stop: threading.Event
) -> list[UUID]:
    """End as ERROR, with ``reason``, what began to report from ``state`` and has neither an end nor a process.

    A run whose process lives is waited for, all of them ``patience_s`` at most or until ``stop``. One that knew its
    end, and did not live to tell it, has its own. Never raises for a single bad file.
    """
    ended: list[UUID] = []
    waiting = find_outboxes([state / OUTBOX_FOLDER])
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
    try:
        if stats.cause or _told(path):
            sync([path], settings, timeout_s=CLOSE_TIMEOUT_S)
            return True
        model_id = UUID(path.stem)
        reporting = open_reporting(settings, model_id, state)
        try:
            reporting.lifecycle.fail(reason)
            reporting.lifecycle.finish()
        finally:
            reporting.close(CLOSE_TIMEOUT_S)
    except FlipError as error:
        logger.error("the end of a lost run could not be told: FLIP-%s %s", error.code, error.what)
        return True
    logger.warning("model %s: %s", model_id, reason)
    ended.append(model_id)
    return True


def _told(path: Path) -> bool:
    outbox = Outbox(path)
    try:
        return outbox.holds_terminal()
    finally:
        outbox.close()
