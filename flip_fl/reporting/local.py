"""Reporting where no hub is configured (development): the same outbox and state machine, and nobody to send to."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from flip_fl.reporting.lifecycle import Lifecycle
from flip_fl.reporting.outbox import Outbox
from flip_fl.reporting.reporter import Reporter
from flip_fl.reporting.session import CLOSE_TIMEOUT_S, OUTBOX_FOLDER


class LocalReporting:
    """One run's reports, kept in ``<state_dir>/outbox/<model_id>.sqlite``; ``flip-fl sync`` can deliver them later.

    Raises ``FlipError`` E0412 when the file cannot be used.
    """

    stop_requested = False
    lost: str | None = None

    def __init__(self, model_id: UUID, state_dir: Path) -> None:
        self._outbox = Outbox(state_dir / OUTBOX_FOLDER / f"{model_id}.sqlite")
        self.reporter = Reporter(self._outbox)
        self.lifecycle = Lifecycle(self.reporter)

    def close(self, timeout_s: float = CLOSE_TIMEOUT_S) -> bool:
        """Close the file; False, since nobody has been told."""
        self._outbox.close()
        return False
