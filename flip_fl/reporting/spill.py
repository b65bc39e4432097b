"""What is reported while the disk takes nothing: kept in memory, bounded, until the disk takes it again."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

from flip_fl import wire
from flip_fl.reporting.file import OutboxFile, OutboxState, state_of
from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.records import Lane, Record, record_of
from flip_fl.reporting.store import MEMORY, Dead, Store

logger = logging.getLogger("flip_fl.reporting")

MEMORY_ROWS = 10_000
MEMORY_BYTES = 8 << 20
DISK_RETRY_S = 1.0
# A disk with room for one report and not for the next would otherwise be told of every second.
REPEAT_S = 600.0


class Spill:
    """Nearly always empty (``active`` is False). Not safe for several threads.

    ``state`` says why reports are kept here; ``begin`` is told the disk's error, ``to_disk`` moves all back once the
    disk takes it, which it tries once a second.
    """

    def __init__(self) -> None:
        self.state = OutboxState.OK
        self._store: Store | None = None
        self._next_try = 0.0
        self._told: dict[OutboxState, float] = {}

    @property
    def active(self) -> bool:
        return self._store is not None

    def begin(self, error: Exception) -> None:
        """The disk has refused a write: from now on reports come here, a row says so."""
        self.state, now = state_of(error), time.monotonic()
        self._next_try = now + DISK_RETRY_S
        self._store = Store(MEMORY, max_rows=MEMORY_ROWS, max_bytes=MEMORY_BYTES)
        if now - self._told.get(self.state, float("-inf")) < REPEAT_S:
            return
        self._told[self.state] = now
        logger.error("the outbox cannot be written (%s): reports are kept in memory only", self.state.value)
        text = f"reporting: the outbox file cannot be written ({self.state.value}); reports are kept in memory"
        self.append([record_of(wire.LogItem(at=datetime.now(UTC), log=text, success=False), own=True)])

    def append(self, records: Sequence[Record]) -> None:
        if self._store is not None:
            self._store.append(records)

    def collect(self, limit: int, max_bytes: int, *, release: bool) -> tuple[list[Record], bool]:
        """As ``Store.collect``, and whether a limit was the end of it."""
        if self._store is None:
            return [], False
        return self._store.collect(limit, max_bytes, release=release), self._store.cut

    def settle(self, acked: Sequence[bytes], dead: Sequence[Dead]) -> None:
        if self._store is not None:
            self._store.settle(acked, dead)

    def unfold(self, ids: Sequence[bytes]) -> None:
        if self._store is not None:
            self._store.unfold(ids)

    def depth(self) -> dict[Lane, int]:
        return dict.fromkeys(Lane, 0) if self._store is None else self._store.depth()

    def holds_terminal(self) -> bool:
        return self._store is not None and self._store.held() is not None

    def to_disk(self, file: OutboxFile, *, at_once: bool = False) -> None:
        """Move everything to ``file``, if it is time to try (or ``at_once``) and the disk lets it."""
        if self._store is None or (time.monotonic() < self._next_try and not at_once):
            return
        self._next_try = time.monotonic() + DISK_RETRY_S
        records = self._store.collect(MEMORY_ROWS * 2, MEMORY_BYTES * 2, release=True)
        losses = self._store.unreported()
        try:
            # Written also where nothing is left to move: a full disk says yes to nothing.
            file.use(lambda store: store.put("disk_ms", str(time.time_ns() // 1_000_000)))
            file.use(lambda store: store.append(records))
            for reason, count in losses.items():
                file.use(partial(Store.lose, reason=LossReason(reason), count=count))
        except (sqlite3.Error, OSError):
            return
        self.drop()
        logger.info("the outbox can be written again: %d reports moved from memory to disk", len(records))

    def drop(self) -> int:
        """Forget everything; return how many reports that were."""
        if self._store is None:
            return 0
        count = sum(self._store.depth().values())
        self._store.close()
        self._store, self.state = None, OutboxState.OK
        return count
