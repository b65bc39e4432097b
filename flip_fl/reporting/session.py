"""Putting it together: one run's reporting, opened and closed, and what earlier runs left behind."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from uuid import UUID

from flip_fl.errors import FlipError
from flip_fl.privacy.counts import CountPolicy
from flip_fl.reporting.hub_client import HubClient
from flip_fl.reporting.lifecycle import Lifecycle
from flip_fl.reporting.outbox import LOST, Outbox
from flip_fl.reporting.reporter import Reporter
from flip_fl.reporting.sender import Pace, Sender
from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.settings import ServerSettings

logger = logging.getLogger("flip_fl.reporting")

OUTBOX_FOLDER = "outbox"
CLOSE_TIMEOUT_S = 5.0
# For what comes after the sender: closing or removing the file.
CLOSE_MARGIN_S = 0.2
SYNC_TIMEOUT_S = 60.0
LEFTOVER_WAIT_S = 60.0


class SyncState(StrEnum):
    """What became of one outbox in ``sync``."""

    EMPTY = "empty"
    DELIVERED = "delivered"
    LIVE = "live"
    UNREACHABLE = "unreachable"
    UNAUTHORISED = "unauthorised"
    TIMED_OUT = "timed_out"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class SyncResult:
    """One outbox after ``sync``: ``sent`` records went, ``left`` stay; ``problem`` in words where some stay."""

    path: Path
    state: SyncState
    sent: int = 0
    left: int = 0
    removed: bool = False
    problem: str | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do: delivered, or in the hands of a live process."""
        return self.state in (SyncState.EMPTY, SyncState.DELIVERED, SyncState.LIVE)


class Reporting:
    """One run's reporting: ``reporter`` and ``lifecycle`` for the engine, a sender behind them. Close it at the end."""

    def __init__(self, settings: ServerSettings, model_id: UUID, state_dir: Path, *, pace: Pace | None = None) -> None:
        folder = state_dir / OUTBOX_FOLDER
        self.path = folder / f"{model_id}.sqlite"
        self._pid = os.getpid()
        self._outbox = Outbox(self.path)
        with contextlib.suppress(PermissionError):
            folder.chmod(0o700)
        self._outbox.recover_cause()
        # Of an earlier run of the model.
        self._outbox.note(**{LOST: None})
        self.reporter = Reporter(self._outbox)
        self.lifecycle = Lifecycle(self.reporter, CountPolicy(settings.count_threshold, settings.sample_counts))
        self._sender = Sender(self._outbox, HubClient(settings), model_id, pace=pace)
        self._leaving = threading.Event()
        self._leftovers = threading.Thread(
            target=self._deliver_leftovers, args=(folder, settings), name="flip-fl-leftovers", daemon=True
        )

    @property
    def stop_requested(self) -> bool:
        """Whether the hub has said that the model was stopped there."""
        return self._sender.stop_requested

    @property
    def lost(self) -> str | None:
        """Which site has lost its part of the run, in words, if the FL server's own process has noted that."""
        return self._outbox.noted(LOST)

    def start(self) -> None:
        """Start sending: this run's reports, and what earlier runs have left in the same folder."""
        self._sender.start()
        self._leftovers.start()

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Send what can be sent within ``timeout_s`` and close; True if the hub has everything.

        What is left stays on disk for the next run on this machine, or ``flip-fl sync``. In a forked child only the
        child's own handle is closed.
        """
        if os.getpid() != self._pid:
            self._outbox.close()
            return False
        self._leaving.set()
        delivered = self._sender.close(max(0.0, timeout_s - CLOSE_MARGIN_S))
        self._outbox.close(remove_if_done=True)
        if not delivered:
            logger.warning("some reports are not at the hub yet and wait in %s: flip-fl sync", self.path.name)
        return delivered

    def _deliver_leftovers(self, folder: Path, settings: ServerSettings) -> None:
        waiting = [path for path in find_outboxes([folder]) if path != self.path]
        while waiting and not self._leaving.is_set():
            if self._sender.answered:
                results = [_sync_one(path, settings, SYNC_TIMEOUT_S, self._leaving) for path in waiting]
                waiting = [result.path for result in results if not result.ok and result.state != SyncState.UNUSABLE]
            self._leaving.wait(LEFTOVER_WAIT_S if waiting else 0)


def open_reporting(settings: ServerSettings, model_id: UUID, state_dir: Path, *, pace: Pace | None = None) -> Reporting:
    """Open ``<state_dir>/outbox/<model_id>.sqlite`` and start sending from it. Does no I/O to the hub itself.

    Raises ``FlipError`` E0412 when the file cannot be used.
    """
    reporting = Reporting(settings, model_id, state_dir, pace=pace)
    reporting.start()
    return reporting


def sync(paths: Iterable[Path], settings: ServerSettings, *, timeout_s: float = SYNC_TIMEOUT_S) -> list[SyncResult]:
    """Deliver what the outboxes among ``paths`` (files or folders) still hold, each within ``timeout_s``.

    An outbox whose run is live is left to that run's own sender. Never raises for a single bad file.
    """
    return [_sync_one(path, settings, timeout_s, None) for path in find_outboxes(list(paths))]


def _sync_one(path: Path, settings: ServerSettings, timeout_s: float, stop: threading.Event | None) -> SyncResult:
    before = read_stats(path)
    try:
        model_id = UUID(path.stem)
    except ValueError:
        return SyncResult(path, SyncState.UNUSABLE, problem="the file's name is not <model id>.sqlite")
    if before.state == "missing":
        return SyncResult(path, SyncState.UNUSABLE, problem="no such file")
    if before.sending:
        return SyncResult(path, SyncState.LIVE, left=before.pending)
    try:
        outbox = Outbox(path)
    except FlipError as error:
        return SyncResult(path, SyncState.UNUSABLE, problem=error.what)
    try:
        if not outbox.acquire_sender():
            return SyncResult(path, SyncState.LIVE, left=before.pending)
        outbox.recover_cause()
        return _drain(path, outbox, Sender(outbox, HubClient(settings), model_id), timeout_s, stop)
    finally:
        outbox.close()


def _drain(path: Path, outbox: Outbox, sender: Sender, timeout_s: float, stop: threading.Event | None) -> SyncResult:
    held = sum(outbox.depth().values())
    problem = sender.drain(timeout_s, stop)
    left = sum(outbox.depth().values())
    removed = outbox.close(remove_if_done=True)
    sent = max(0, held - left)
    if problem is not None:
        state = SyncState.UNAUTHORISED if problem.unauthorised else SyncState.UNREACHABLE
        return SyncResult(path, state, sent, left, removed, problem.text)
    if left:
        return SyncResult(path, SyncState.TIMED_OUT, sent, left, removed, f"not done within {timeout_s:g} s")
    return SyncResult(path, SyncState.DELIVERED if held else SyncState.EMPTY, sent, left, removed)
