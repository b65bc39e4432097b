"""The outbox's SQL: one open database, no locks, no threads, no policy about failures.

Every function that writes is one transaction of its own. Errors are sqlite3's; ``outbox`` decides what they mean.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from flip_fl.reporting.losses import LossReason
from flip_fl.reporting.records import Lane, Record
from flip_fl.reporting.room import ROWS_A_STATEMENT, Room
from flip_fl.reporting.schema import COLLECT, SCHEMA_VERSION, UNFOLDED, append_statement, statements
from flip_fl.wire import MAX_BATCH_BYTES, MAX_BATCH_ITEMS

MEMORY = ":memory:"
MAX_ROWS = 100_000
MAX_BYTES = 64 << 20
# Ids already settled, so that the copy which rides in a task's result is not sent a second time.
MAX_SEEN = 100_000
MAX_DEAD = 1_000
# One report writes five pages or so to the log: small ones cost a third of the disk's work.
PAGE_BYTES = 1_024
# Once 16 MiB of log have gathered because no sender comes by, the appending thread folds them in itself.
WAL_PAGES = (16 << 20) // PAGE_BYTES
OTHER_PROCESS_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Dead:
    """A report set aside: which, and the hub's reason."""

    id: bytes
    reason: LossReason
    code: str
    detail: str | None = None


class Store:
    """One SQLite file, or ``":memory:"``. Not safe for several threads, and not to be carried across a fork."""

    def __init__(self, path: Path | str, *, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES) -> None:
        # The last row of each lane that the sender holds: what is on its way must not be counted as dropped.
        self._in_flight: dict[Lane, int] = {}
        self._skip: dict[Lane, int] = {}
        self.cut = False
        # Whether commits wait for the disk now; unknown until the first one says.
        self._durable: bool | None = None
        self._sql = sqlite3.connect(path, timeout=OTHER_PROCESS_WAIT_S, isolation_level=None, check_same_thread=False)
        self._sql.text_factory = _text
        self._room = Room(self._sql, max_rows, max_bytes)
        try:
            self._sql.execute(f"PRAGMA page_size={PAGE_BYTES}")
            self._sql.execute("PRAGMA journal_mode=WAL").fetchone()
            self._sql.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}").fetchone()
            self.version = self._prepare()
        except BaseException:
            self._sql.close()
            raise

    def sound(self) -> bool:
        """Whether the file's pages hang together. Reads all of it."""
        row = self._sql.execute("PRAGMA quick_check(1)").fetchone()
        return bool(row and row[0] == "ok")

    def append(self, records: Sequence[Record]) -> int:
        """Keep the records whose ids are new; return how many. At the cap, less important ones make room."""
        if not records:
            return 0
        durable = any(record.durable for record in records)
        if self._room.take(records):
            # One statement is a transaction of its own: a third of the times to win back the interpreter's lock.
            self._sync(durable)
            return self._insert(records)
        with self._transaction(durable=durable):
            added = 0
            for start in range(0, len(records), ROWS_A_STATEMENT):
                added += self._insert(records[start : start + ROWS_A_STATEMENT])
            for record in records:
                if record.lane is Lane.STATUS:
                    self._mark_end(record.terminal)
            self._room.make(self._sent, self._drop, self._unfold)
        return added

    def collect(
        self, limit: int = MAX_BATCH_ITEMS, max_bytes: int = MAX_BATCH_BYTES, *, release: bool = False
    ) -> list[Record]:
        """The next records to send, most important lane first, in order within a lane; at least one if any may go.

        ``limit`` counts the reports in them.

        A terminal status that is the last one stays until the other lanes are empty, or ``release`` is said. ``cut``
        then says whether a limit was the end of it.
        """
        held = None if release else self.held()
        self.cut = True
        chosen: list[Record] = []
        self._in_flight = {}
        size = count = 0
        for lane in Lane:
            wanted = (lane, self._skip.get(lane, 0), limit - count)
            for row_id, body, terminal, own, attempted, several, seq in self._sql.execute(COLLECT, wanted):
                if lane is Lane.STATUS and seq == held:
                    break
                record = Record(row_id, lane, body, bool(terminal), bool(own), bool(attempted), several)
                size, count = size + record.size, count + several
                if chosen and (size > max_bytes or count > limit):
                    return chosen
                chosen.append(record)
                self._in_flight[lane] = seq
            if count >= limit:
                return chosen
        self.cut = False
        return chosen

    def skip_collected(self) -> None:
        """Pass over what the last ``collect`` returned: the hub has it, but the file is not told so yet."""
        self._skip |= self._in_flight

    def landed(self) -> None:
        """Nothing is on its way any more: what ``collect`` returned may make room again."""
        self._in_flight = {}

    def held(self) -> int | None:
        """The ``seq`` of a terminal status that waits for the other lanes, else None."""
        last = self._sql.execute(
            "SELECT seq, terminal FROM pending WHERE lane = 0 ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        if last is None or not last[1]:
            return None
        others = self._sql.execute("SELECT sum(rows) FROM lanes WHERE lane > 0").fetchone()[0]
        return int(last[0]) if others else None

    def settle(self, acked: Sequence[bytes], dead: Sequence[Dead] = ()) -> None:
        """Forget what the hub has; set aside what it refused, counting each under its reason."""
        with self._transaction():
            for start in range(0, len(acked), ROWS_A_STATEMENT):
                self._acknowledge(acked[start : start + ROWS_A_STATEMENT])
            for corpse in dead:
                for record in self._remove([corpse.id]):
                    # A loss of a row about losses is not reported again: it would never end.
                    self._lose(corpse.reason, record.reports, reported=int(record.own))
                    if corpse.reason is not LossReason.AMBIGUOUS:
                        self._bury(corpse, record)
            if acked:
                self.put("last_ack_ms", str(time.time_ns() // 1_000_000), transaction=False)
            self._prune()

    def unfold(self, ids: Sequence[bytes]) -> bool:
        """Put the reports of these rows into rows of their own, in the same places of the order."""
        with self._transaction():
            for row_id in ids:
                self._unfold(row_id)
        return True

    def mark_attempted(self, row_id: bytes, attempted: bool) -> None:
        """Note before a post that the hub may have the record from now on; take it back after a clear refusal."""
        with self._transaction():
            self._sql.execute("UPDATE pending SET attempted = ? WHERE id = ?", (attempted, row_id))

    def lose(self, reason: LossReason, count: int, *, reported: int = 0) -> None:
        """Count losses that never were a row; ``reported`` of them are known to the hub already."""
        with self._transaction():
            self._lose(reason, count, reported)

    def unreported(self) -> dict[str, int]:
        """Losses by reason that the hub has not been told of."""
        rows = self._sql.execute("SELECT reason, count - reported FROM losses WHERE count > reported")
        return {str(reason): int(count) for reason, count in rows}

    def report_losses(self, losses: Mapping[str, int], record: Record) -> bool:
        """Append ``record``, which tells the hub of ``losses``, and count them as told: both or neither."""
        with self._transaction(durable=True):
            for reason, count in losses.items():
                self._sql.execute("UPDATE losses SET reported = reported + ? WHERE reason = ?", (count, reason))
            self._insert([record])
        return True

    def depth(self) -> dict[Lane, int]:
        return {Lane(lane): int(rows) for lane, rows in self._sql.execute("SELECT lane, rows FROM lanes")}

    def get(self, key: str) -> str | None:
        row = self._sql.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def put(self, key: str, value: str | None, *, durable: bool = False, transaction: bool = True) -> None:
        """Keep one fact about the outbox; None removes it."""
        if transaction:
            with self._transaction(durable=durable):
                self.put(key, value, transaction=False)
        elif value is None:
            self._sql.execute("DELETE FROM meta WHERE key = ?", (key,))
        else:
            self._sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def close(self) -> None:
        self._sql.close()

    def _prepare(self) -> int:
        version = int(self._sql.execute("PRAGMA user_version").fetchone()[0])
        if version < SCHEMA_VERSION:
            with self._transaction(durable=True):
                # Another process may have been faster between the two looks.
                version = int(self._sql.execute("PRAGMA user_version").fetchone()[0])
                if version < SCHEMA_VERSION:
                    for statement in statements(version):
                        self._sql.execute(statement)
                    self._sql.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                    version = SCHEMA_VERSION
        return version

    def _transaction(self, *, durable: bool = False) -> _Transaction:
        self._sync(durable)
        return _Transaction(self._sql)

    def _sync(self, durable: bool) -> None:
        """Whether the next commit waits for the disk."""
        if durable is not self._durable:
            self._sql.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._durable = durable

    def _insert(self, records: Sequence[Record]) -> int:
        now_ms = time.time_ns() // 1_000_000
        values: list[object] = []
        place = 0
        for record in records:
            place += record.reports
            values += (place, record.id, record.lane, record.terminal, record.own, record.attempted, now_ms)
            values += (record.size, record.body, record.reports)
        return self._sql.execute(append_statement(len(records)), values).rowcount

    def _acknowledge(self, ids: Sequence[bytes]) -> None:
        known = f"id IN ({', '.join('?' * len(ids))})"
        if self._sql.execute(f"SELECT 1 FROM pending WHERE {known} AND terminal LIMIT 1", ids).fetchone():
            self.put("delivered", "1", transaction=False)
        self._sql.execute(f"INSERT OR IGNORE INTO seen (id) SELECT id FROM pending WHERE {known}", ids)
        self._sql.execute(f"DELETE FROM pending WHERE {known}", ids)

    def _mark_end(self, terminal: bool) -> None:
        # A status after the end begins a new run under the same model; a cause is spent once its status is kept.
        self.put("delivered", None, transaction=False)
        if terminal:
            self.put("cause", None, transaction=False)

    def _drop(self, victims: Sequence[bytes]) -> None:
        removed = self._remove(victims, seen=False)
        own = sum(record.own for record in removed)
        self._lose(LossReason.FULL, sum(record.reports for record in removed), own)

    def _unfold(self, row_id: bytes) -> None:
        found = self._sql.execute("SELECT seq, created_ms FROM pending WHERE id = ?", (row_id,)).fetchone()
        for record in self._remove([row_id], seen=False):
            parts = record.parts()
            if len(parts) < record.reports:
                self._lose(LossReason.INVALID, record.reports - len(parts), reported=0)
                self._bury(Dead(row_id, LossReason.INVALID, "unreadable"), record)
            for place, part in enumerate(parts, found[0] - record.reports + 1):
                row = (place, part.id, part.lane, found[1], part.size, part.body)
                self._sql.execute(UNFOLDED, row)

    def _sent(self, lane: Lane) -> int:
        """The last row of ``lane`` that the hub has, or may have: of these none is a loss."""
        return max(self._in_flight.get(lane, 0), self._skip.get(lane, 0))

    def _remove(self, ids: Iterable[bytes], *, seen: bool = True) -> list[Record]:
        removed: list[Record] = []
        query = "DELETE FROM pending WHERE id = ? RETURNING lane, body, terminal, own, count"
        for row_id in ids:
            for lane, body, terminal, own, count in self._sql.execute(query, (row_id,)).fetchall():
                removed.append(Record(row_id, Lane(lane), body, bool(terminal), bool(own), reports=count))
        if seen:
            rows = ((record.id,) for record in removed)
            self._sql.executemany("INSERT OR IGNORE INTO seen (id) VALUES (?)", rows)
        return removed

    def _bury(self, corpse: Dead, record: Record) -> None:
        row = (corpse.id, time.time_ns() // 1_000_000, corpse.code, corpse.detail, record.body)
        self._sql.execute("INSERT INTO dead (id, at_ms, code, detail, body) VALUES (?, ?, ?, ?, ?)", row)

    def _lose(self, reason: LossReason, count: int, reported: int) -> None:
        self._sql.execute(
            "INSERT INTO losses VALUES (?1, ?2, ?3) ON CONFLICT (reason) DO UPDATE SET"
            " count = count + ?2, reported = reported + ?3",
            (reason.value, count, reported),
        )

    def _prune(self) -> None:
        self._sql.execute("DELETE FROM seen WHERE n <= (SELECT max(n) FROM seen) - ?", (MAX_SEEN,))
        self._sql.execute("DELETE FROM dead WHERE n <= (SELECT max(n) FROM dead) - ?", (MAX_DEAD,))


def _text(raw: bytes) -> str:
    """A text from the file; one that the disk has changed must not make its whole batch unreadable."""
    return raw.decode("utf-8", "replace")


class _Transaction:
    """BEGIN IMMEDIATE … COMMIT, rolled back on any exception."""

    def __init__(self, sql: sqlite3.Connection) -> None:
        self._sql = sql

    def __enter__(self) -> None:
        self._sql.execute("BEGIN IMMEDIATE")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._sql.execute("COMMIT")
        finally:
            # SQLite rolls back by itself on some errors, not on others.
            if self._sql.in_transaction:
                self._sql.execute("ROLLBACK")
