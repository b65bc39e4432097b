"""The bounds of an outbox file, and what has to go when it reaches them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from flip_fl.reporting.records import Lane, Record

# Each statement gives up the interpreter's lock and has to win it back from busy threads: many rows go in one.
ROWS_A_STATEMENT = 50
# What may come in before somebody looks again how much there is: a forked process writes here, too.
UNSEEN_ROWS = 500
UNSEEN_BYTES = 1 << 20

# The first failures explain the most, so of these the newest go; a status is never in the way.
_DROPPED_FIRST = ((Lane.METRIC, "ASC"), (Lane.EVENT, "ASC"), (Lane.FAILURE, "DESC"))


class Room:
    """At most ``max_rows`` rows and ``max_bytes`` bytes in the tables of ``sql``. Not safe for several threads."""

    def __init__(self, sql: sqlite3.Connection, max_rows: int, max_bytes: int) -> None:
        self._sql = sql
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._spare_rows = self._spare_bytes = 0

    def take(self, records: Sequence[Record]) -> bool:
        """Whether ``records`` fit into one statement and into what was free when ``make`` looked last; no status does.

        They then count as in.
        """
        if len(records) > ROWS_A_STATEMENT or any(record.lane is Lane.STATUS for record in records):
            return False
        self._spare_rows -= sum(record.reports for record in records)
        self._spare_bytes -= sum(record.size for record in records)
        return self._spare_rows >= 0 and self._spare_bytes >= 0

    def make(
        self,
        sent: Callable[[Lane], int],
        drop: Callable[[Sequence[bytes]], None],
        unfold: Callable[[bytes], None],
    ) -> None:
        """Have what is over the bounds dropped, the least important first; what is up to ``sent`` of its lane stays.

        Of a row of several reports that need not all go, ``unfold`` makes rows of one.
        """
        rows, size = self._sql.execute("SELECT sum(rows), sum(bytes) FROM lanes").fetchone()
        for lane, order in _DROPPED_FIRST:
            if rows <= self._max_rows and size <= self._max_bytes:
                break
            query = f"SELECT id, size, count FROM pending WHERE lane = ? AND seq > ? ORDER BY seq {order}"
            victims: list[bytes] = []
            divided: bytes | None = None
            for row_id, row_size, count in self._sql.execute(query, (lane, sent(lane))):
                if rows <= self._max_rows and size <= self._max_bytes:
                    break
                if size <= self._max_bytes and rows - count < self._max_rows:
                    divided = row_id
                    break
                victims.append(row_id)
                rows, size = rows - count, size - row_size
            if victims:
                drop(victims)
            if divided is not None:
                unfold(divided)
                self.make(sent, drop, unfold)
                return
        self._spare_rows = min(self._max_rows - rows, UNSEEN_ROWS)
        self._spare_bytes = min(self._max_bytes - size, UNSEEN_BYTES)
