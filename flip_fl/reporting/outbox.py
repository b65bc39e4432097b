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
from flip_fl.reporting.spill import Spill
from flip_fl.reporting.stats import read_stats
from flip_fl.reporting.store import MAX_BYTES, MAX_ROWS, MEMORY, Dead, Store
from flip_fl.reporting.wake import Wake

__all__ = ["Outbox", "OutboxState"]

logger = logging.getLogger("flip_fl.reporting")

# A long transaction would make the other threads' reports wait.
APPEND_CHUNK = 200
SETTLE_CHUNK = 100
CHECKPOINT_BYTES = 4 << 20
# What a transaction and a row write to the log, about: the pages of the table, its indexes and the counters.
TRANSACTION_LOG_BYTES = 6 << 10
YIELD_S = 0.0005

# Which site has lost its part of the run, as the FL server's own process knows it.
LOST = "lost"

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
        self.urgent = Wake()
        self.more = False
        self._lock = threading.RLock()
        self._file = OutboxFile(self.path, max_rows, max_bytes)
        self._spill = Spill()
        self._closed = False
        self._entered = False
        self._interrupting: list[Record] = []
        self._unsettled: list[tuple[list[bytes], list[Dead]]] = []
        self._collected: set[bytes] = set()
        self._fresh = 0
        self._fresh_bytes = 0
        self._since_checkpoint = 0
        self._deferred: list[bytes] = []
        self._file.open_checked()
        watch_forks(self)

    @property
    def state(self) -> OutboxState:
        """Whether reports reach the disk."""
        return OutboxState.CLOSED if self._closed else self._spill.state

    # -- the reporting side -----------------------------------------------------------------------------------

    def append(self, records: Sequence[Record]) -> bool:
        """Keep ``records``; an id that is here, or was, is ignored. Never raises for a failing disk.

        Returns True once they are on disk, False while they are only in memory or the outbox is closed.
        """
        durable = True
        for start in range(0, len(records), APPEND_CHUNK):
            durable = self._append(records[start : start + APPEND_CHUNK]) and durable
        self._fresh += sum(record.reports for record in records)
        self._fresh_bytes += sum(record.size for record in records)
        full = self._fresh >= wire.MAX_BATCH_ITEMS or self._fresh_bytes >= wire.MAX_BATCH_BYTES
        if full or any(record.lane is Lane.STATUS for record in records):
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
            if self._closed:
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
        """The next records to send, as ``Store.collect`` says; those that are only in memory come last.

        ``more`` then says whether they are a full batch, with others waiting behind it.
        """

        def take(store: Store) -> tuple[list[Record], bool]:
            return store.collect(limit, max_bytes, release=release), store.cut

        with self._lock:
            if self._closed:
                return []
            self._fresh = self._fresh_bytes = 0
            self._spill.to_disk(self._file)
            self._settle_disk()
            records, self.more = self._try(take) or ([], False)
            if not records:
                records, self.more = self._spill.collect(limit, max_bytes, release=release)
            self._collected = {record.id for record in records}
            return records

    def settle(self, acked: Sequence[bytes], dead: Sequence[Dead] = ()) -> None:
        """Forget what the hub has, and set aside what it refused. A failing disk is told later.

        After ``close`` nothing happens: a late answer is no reason to open the file again, and the hub keeps ids once.
        """
        self._settle(acked, dead)
        with self._lock:
            self._file.landed()

    def defer(self, acked: Sequence[bytes]) -> None:
        """The hub has all that was collected last: nobody sends it again. ``settle_deferred`` then forgets it.

        So that the hub works on the next batch meanwhile. Whoever dies in between has sent a copy, which is harmless.
        """
        with self._lock:
            if self._spill.active:
                self.settle(acked)
                return
            self._deferred += acked
            self._collected = set()
            self._file.skip_collected()

    def settle_deferred(self) -> bool:
        """Settle what was deferred; False if there is nothing of it."""
        deferred, self._deferred = self._deferred, []
        self._settle(deferred)
        return bool(deferred)

    def unfold(self, ids: Sequence[bytes]) -> bool:
        """See ``Store.unfold``; False where the disk did not let it."""
        with self._lock:
            self._spill.unfold(ids)
            self._file.landed()
            return self._try(lambda store: store.unfold(ids)) or False

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

    def noted(self, key: str) -> str | None:
        """What ``note`` has kept under ``key``, this process's or another's."""
        return self._try(lambda store: store.get(key))

    def checkpoint(self) -> None:
        """Fold the write-ahead log into the file, if enough has gathered; the reporting threads do not wait for it."""
        if not self._closed and self._since_checkpoint >= CHECKPOINT_BYTES:
            self._since_checkpoint = 0
            self._file.checkpoint()

    # -- both -------------------------------------------------------------------------------------------------

    def depth(self) -> dict[Lane, int]:
        """Pending records by lane."""
        with self._lock:
            depth = self._try(Store.depth) or dict.fromkeys(Lane, 0)
            return {lane: rows + depth[lane] for lane, rows in self._spill.depth().items()}

    def holds_terminal(self) -> bool:
        """Whether a terminal status waits for the other lanes."""
        with self._lock:
            return self._try(Store.held) is not None or self._spill.holds_terminal()

    def is_empty(self) -> bool:
        return not any(self.depth().values())

    def close(self, *, remove_if_done: bool = False) -> bool:
        """Close the file; later reports are refused. True if the file was removed, as ``OutboxFile.give_up`` says."""
        with self._lock:
            if self._closed:
                return False
            with self._inside():
                self._spill.to_disk(self._file, at_once=True)
                self._settle_disk()
            self._write_interrupting()
            self._closed = True
            clean = not self._spill.active
            if lost := self._spill.drop():
                logger.error("%d reports were in memory only and are lost: the outbox could not be written", lost)
            return self._file.give_up(remove_if_done=remove_if_done and clean)

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
        self._entered, self._interrupting, self._unsettled, self._deferred = False, [], [], []
        self._file.forget()
        # What waits in memory is the parent's to send.
        self._spill.drop()

    # -- inside -----------------------------------------------------------------------------------------------

    def _append(self, records: Sequence[Record]) -> bool:
        with self._lock:
            if self._closed:
                return False
            if self._entered:
                # A signal handler reports in the very thread that is in the middle of a transaction.
                self._interrupting.extend(records)
                return False
            with self._inside():
                durable = self._write(records)
            self._write_interrupting()
            return durable

    def _write_interrupting(self) -> None:
        while self._interrupting:
            waiting, self._interrupting = self._interrupting, []
            with self._inside():
                self._write(waiting)

    def _write(self, records: Sequence[Record]) -> bool:
        self._spill.to_disk(self._file)
        if not self._spill.active:
            try:
                self._file.use(lambda store: store.append(records))
            except (sqlite3.Error, OSError) as error:
                self._spill.begin(error)
            else:
                self._since_checkpoint += TRANSACTION_LOG_BYTES + 2 * sum(record.size for record in records)
                return True
        self._spill.append(records)
        return False

    def _settle(self, acked: Sequence[bytes], dead: Sequence[Dead] = ()) -> None:
        parts: list[tuple[list[bytes], list[Dead]]] = [([], list(dead))] if dead else []
        parts += [(list(acked[start : start + SETTLE_CHUNK]), []) for start in range(0, len(acked), SETTLE_CHUNK)]
        for place, part in enumerate(parts):
            if place:
                # A lock that is taken again at once is never had by the thread that waits for it.
                time.sleep(YIELD_S)
            with self._lock:
                if self._closed:
                    return
                self._spill.settle(*part)
                self._unsettled.append(part)
                self._collected -= {*part[0], *(corpse.id for corpse in part[1])}
                self._settle_disk()

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
            if self._closed or self._entered:
                return None
            try:
                with self._inside():
                    return self._file.use(action)
            except (sqlite3.Error, OSError) as error:
                logger.debug("the outbox file: %s", state_of(error).value)
                return None
            finally:
                self._write_interrupting()

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        self._entered = True
        try:
            yield
        finally:
            self._entered = False
