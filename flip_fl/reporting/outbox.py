"""The outbox: what was reported is on disk before the reporter returns, and stays there until the hub has it."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from flip_fl import wire
from flip_fl.reporting.file import OutboxFile, OutboxState, state_of
from flip_fl.reporting.forking import watch_forks
from flip_fl.reporting.losses import LossReason, describe
from flip_fl.reporting.records import Lane, Record, record_of
from flip_fl.reporting.stats import read_stats
from flip_fl.reporting.store import MAX_BYTES, MAX_ROWS, MEMORY, Dead, Store
from flip_fl.reporting.wake import Wake

__all__ = ["Outbox", "OutboxState"]

logger = logging.getLogger("flip_fl.reporting")

# A long transaction would make the other threads' reports wait.
APPEND_CHUNK = 200
SETTLE_CHUNK = 100
MEMORY_ROWS = 10_000
MEMORY_BYTES = 8 << 20
CHECKPOINT_BYTES = 4 << 20
DISK_RETRY_S = 1.0
YIELD_S = 0.0005

_Answer = TypeVar("_Answer")


class Outbox:
    """One run's reports on their way to the hub, in ``path`` (or ``":memory:"`` for tests).

    Safe for several threads, and after a fork: parent and child append to the same file, the parent sends. A corrupt
    file is set aside beside it and counted as a loss. Raises ``FlipError`` E0412 when the file cannot be made,
    written or understood; later failures of the disk are states (``state``), never errors of the reporting thread.
    ``urgent`` is set when the sender should not wait any longer: a status, or a full batch.
    """

    stats = staticmethod(read_stats)

    def __init__(self, path: Path | str, *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        self.path = None if str(path) == MEMORY else Path(path)
        self.state = OutboxState.OK
        self.urgent = Wake()
        self._lock = threading.RLock()
        self._file = OutboxFile(self.path, max_rows, max_bytes)
        self._memory: Store | None = None
        self._entered = False
        self._interrupting: list[Record] = []
        self._unsettled: list[tuple[list[bytes], list[Dead]]] = []
        self._collected: set[bytes] = set()
        self._fresh = 0
        self._since_checkpoint = 0
        self._next_try = 0.0
        self._file.open_checked()
        watch_forks(self)

    # -- the reporting side -----------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> bool:
        """Keep ``records``; an id that is here, or was, is ignored. Never raises for a failing disk.

        Returns True once they are on disk, False while they are only in memory or the outbox is closed.
        """
        durable = True
        for start in range(0, len(records), APPEND_CHUNK):
            durable = self._append(records[start : start + APPEND_CHUNK]) and durable
        self._fresh += len(records)
        if self._fresh >= wire.MAX_BATCH_ITEMS or any(record.lane is Lane.STATUS for record in records):
            self.urgent.set()
        return durable

    def lose(self, reason: LossReason, count: int = 1, *, reported: int = 0) -> None:
        """Count losses that never became a record; ``reported`` of them are told to the hub in another way."""
        self._try(lambda store: store.lose(reason, count, reported=reported))

    def keep_cause(self, item: wire.StatusItem) -> None:
        """Remember durably how the run is going to end, in case this process does not live to say so."""
        body = record_of(item).body
        self._try(lambda store: store.put("cause", body, durable=True))

    def recover_cause(self) -> bool:
        """Append the terminal status that an earlier process knew of but did not live to report."""
        body = self._try(lambda store: store.get("cause"))
        return body is not None and self.append([record_of(wire.StatusItem.model_validate_json(body))])

    # -- the sending side -------------------------------------------------------------------------------------

    def acquire_sender(self) -> bool:
        """Become the one sender of this file; False while another process (or object) is."""
        with self._lock:
            if self.state is OutboxState.CLOSED:
                return False
            sender = self._file.sender
            return sender is None or sender.held or sender.acquire()

    def release_sender(self) -> None:
        with self._lock:
            if self._file.sender is not None:
                self._file.sender.release()

    def collect(
        self, limit: int = wire.MAX_BATCH_ITEMS, max_bytes: int = wire.MAX_BATCH_BYTES, *, release: bool = False
    ) -> list[Record]:
        """The next records to send, as ``Store.collect`` says; those that are only in memory come last."""
        with self._lock:
            if self.state is OutboxState.CLOSED:
                return []
            self._fresh = 0
            self._to_disk()
            self._settle_disk()
            records = self._try(lambda store: store.collect(limit, max_bytes, release=release)) or []
            if not records and self._memory is not None:
                records = self._memory.collect(limit, max_bytes, release=release)
            self._collected = {record.id for record in records}
            return records

    def settle(self, acked: Sequence[bytes], dead: Sequence[Dead] = ()) -> None:
        """Forget what the hub has, and set aside what it refused. A failing disk is told later.

        After ``close`` nothing happens: a late answer is no reason to open the file again, and the hub keeps ids once.
        """
        parts: list[tuple[list[bytes], list[Dead]]] = [([], list(dead))] if dead else []
        parts += [(list(acked[start : start + SETTLE_CHUNK]), []) for start in range(0, len(acked), SETTLE_CHUNK)]
        for part in parts:
            with self._lock:
                if self.state is OutboxState.CLOSED:
                    return
                if self._memory is not None:
                    self._memory.settle(*part)
                self._unsettled.append(part)
                self._collected -= {*part[0], *(corpse.id for corpse in part[1])}
                self._settle_disk()
            # A lock that is taken again at once is never had by the thread that waits for it.
            time.sleep(YIELD_S)
        with self._lock:
            self._file.landed()

    def mark_attempted(self, row_id: bytes, attempted: bool) -> None:
        """See ``Store.mark_attempted``."""
        self._try(lambda store: store.mark_attempted(row_id, attempted))

    def report_losses(self) -> bool:
        """Append one failure row that tells the hub of losses it has not heard of; False if there are none."""
        losses = self._try(lambda store: store.unreported())
        if not losses:
            return False
        row = wire.LogItem(at=datetime.now(UTC), log=f"reporting: {describe(losses)}", success=False)
        record = record_of(row, own=True)
        return self._try(lambda store: store.report_losses(losses, record)) or False

    def note(self, **facts: str | None) -> None:
        """Keep facts about the sender for ``flip-fl doctor``: ``last_error``, ``paused``, …; None removes one."""
        for key, value in facts.items():
            self._try(partial(Store.put, key=key, value=value))

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file, if enough has gathered.

        On a connection of its own, so that the reporting threads do not wait for it.
        """
        if self.path is None or self.state is OutboxState.CLOSED or self._since_checkpoint < CHECKPOINT_BYTES:
            return
        self._since_checkpoint = 0
        uri = f"{self.path.absolute().as_uri()}?mode=rw"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(uri, uri=True, timeout=0)) as sql:
            sql.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    # -- both -------------------------------------------------------------------------------------------------

    def depth(self) -> dict[Lane, int]:
        """Pending records by lane."""
        with self._lock:
            depth = self._try(Store.depth) or dict.fromkeys(Lane, 0)
            if self._memory is not None:
                depth = {lane: rows + depth[lane] for lane, rows in self._memory.depth().items()}
            return depth

    def holds_terminal(self) -> bool:
        """Whether a terminal status waits for the other lanes."""
        with self._lock:
            held = self._try(Store.held)
            return held is not None or (self._memory is not None and self._memory.held() is not None)

    def is_empty(self) -> bool:
        return not any(self.depth().values())

    def close(self, *, remove_if_done: bool = False) -> bool:
        """Close the file; later reports are refused. True if the file was removed, as ``OutboxFile.give_up`` says."""
        with self._lock:
            if self.state is OutboxState.CLOSED:
                return False
            self._next_try = 0.0
            self._to_disk()
            self._settle_disk()
            removed = self._file.give_up(remove_if_done=remove_if_done and self._memory is None)
            self._memory, self.state = None, OutboxState.CLOSED
            return removed

    def before_fork(self) -> None:
        """No SQLite handle may cross a fork, and none may be in mid-transaction: both sides open anew."""
        self._lock.acquire()
        if self.path is not None:
            self._file.close()

    def after_fork(self, *, in_child: bool) -> None:
        if not in_child:
            self._lock.release()
            return
        self._lock = threading.RLock()
        self.urgent = Wake()
        self._entered, self._interrupting, self._unsettled = False, [], []
        self._file.forget()
        if self._memory is not None:
            # What waits in memory is the parent's to send.
            self._memory, self.state = None, OutboxState.OK

    # -- inside -----------------------------------------------------------------------------------------------

    def _append(self, records: Sequence[Record]) -> bool:
        with self._lock:
            if self.state is OutboxState.CLOSED:
                return False
            if self._entered:
                # A signal handler reports in the very thread that is in the middle of a transaction.
                self._interrupting.extend(records)
                return False
            with self._inside():
                durable = self._write(records)
            while self._interrupting:
                waiting, self._interrupting = self._interrupting, []
                with self._inside():
                    self._write(waiting)
            return durable

    def _write(self, records: Sequence[Record]) -> bool:
        self._to_disk()
        if self._memory is None:
            try:
                self._file.use(lambda store: store.append(records))
            except (sqlite3.Error, OSError) as error:
                self._memory = self._degrade(error)
            else:
                self._since_checkpoint += sum(record.size for record in records)
                return True
        self._memory.append(records)
        return False

    def _to_disk(self) -> None:
        """Move what is in memory to the disk, if that takes it again."""
        if self._memory is None or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + DISK_RETRY_S
        records = self._memory.collect(MEMORY_ROWS * 2, MEMORY_BYTES * 2, release=True)
        losses = self._memory.unreported()
        try:
            self._file.use(lambda store: store.append(records))
            for reason, count in losses.items():
                self._file.use(partial(Store.lose, reason=LossReason(reason), count=count))
        except (sqlite3.Error, OSError):
            return
        self._memory.close()
        self._memory, self.state = None, OutboxState.OK
        logger.info("the outbox can be written again: %d reports moved from memory to disk", len(records))

    def _degrade(self, error: Exception) -> Store:
        self.state = state_of(error)
        self._next_try = time.monotonic() + DISK_RETRY_S
        logger.error("the outbox cannot be written (%s): reports are kept in memory only", self.state.value)
        text = f"reporting: the outbox file cannot be written ({self.state.value}); reports are kept in memory"
        memory = Store(MEMORY, max_rows=MEMORY_ROWS, max_bytes=MEMORY_BYTES)
        memory.append([record_of(wire.LogItem(at=datetime.now(UTC), log=text, success=False), own=True)])
        return memory

    def _settle_disk(self) -> None:
        while self._unsettled:
            acked, dead = self._unsettled[0]
            try:
                self._file.use(partial(Store.settle, acked=acked, dead=dead))
            except (sqlite3.Error, OSError):
                # What the hub has must not be sent again and again while the disk cannot be told.
                if not self._collected:
                    self._file.skip_collected()
                return
            del self._unsettled[0]

    def _try(self, action: Callable[[Store], _Answer]) -> _Answer | None:
        """``action`` on the file; None where the disk does not let it."""
        with self._lock:
            if self.state is OutboxState.CLOSED or self._entered:
                return None
            try:
                with self._inside():
                    return self._file.use(action)
            except (sqlite3.Error, OSError) as error:
                logger.debug("the outbox file: %s", state_of(error).value)
                return None

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        self._entered = True
        try:
            yield
        finally:
            self._entered = False
