"""The outbox file's tables, and the statements that run often."""

from __future__ import annotations

from functools import cache

# 3: a row's body may hold items of several metrics, or several events; the tables are those of 2.
SCHEMA_VERSION = 3

# A row may hold several reports (see `Record.reports`); what is counted and bounded is reports.
_TRIGGERS = """
CREATE TRIGGER pending_in AFTER INSERT ON pending BEGIN
  UPDATE lanes SET rows = rows + NEW.count, bytes = bytes + NEW.size WHERE lane = NEW.lane; END;
CREATE TRIGGER pending_out AFTER DELETE ON pending BEGIN
  UPDATE lanes SET rows = rows - OLD.count, bytes = bytes - OLD.size WHERE lane = OLD.lane; END;
"""

_SCHEMA = f"""
CREATE TABLE pending (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, lane INTEGER NOT NULL, terminal INTEGER NOT NULL,
  own INTEGER NOT NULL, attempted INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL, size INTEGER NOT NULL,
  body TEXT NOT NULL, count INTEGER NOT NULL DEFAULT 1);
CREATE INDEX pending_order ON pending (lane, seq);
CREATE TABLE lanes (lane INTEGER PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO lanes VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0);
CREATE TABLE seen (n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE);
CREATE TABLE dead (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL, at_ms INTEGER NOT NULL, code TEXT NOT NULL, detail TEXT,
  body TEXT NOT NULL);
{_TRIGGERS.strip()}
CREATE TABLE losses (reason TEXT PRIMARY KEY, count INTEGER NOT NULL, reported INTEGER NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

_UPGRADE = f"""
ALTER TABLE pending ADD COLUMN count INTEGER NOT NULL DEFAULT 1;
DROP TRIGGER pending_in;
DROP TRIGGER pending_out;
{_TRIGGERS.strip()}
"""


def statements(version: int) -> tuple[str, ...]:
    """What makes the tables of an empty file (version 0), or of one that an older flip_fl wrote, this version's."""
    text = {0: _SCHEMA, 1: _UPGRADE}.get(version, "")
    return tuple(statement for statement in text.split(";\n") if statement.strip())


COLLECT = """
SELECT id, body, terminal, own, attempted, count, seq FROM pending WHERE lane = ? AND seq > ? ORDER BY seq LIMIT ?
"""

UNFOLDED = """
INSERT OR IGNORE INTO pending (seq, id, lane, terminal, own, created_ms, size, body) VALUES (?, ?, ?, 0, 0, ?, ?, ?)
"""

_COLUMNS = ("id", "lane", "terminal", "own", "attempted", "created_ms", "size", "body", "count")


@cache
def append_statement(count: int) -> str:
    """Insert ``count`` rows, except those whose ids are here or were.

    A row's values begin with its place: how many reports there are up to and with it. So a row of several reports has
    as many numbers of the order to itself, and each report takes its own when they are put into rows of their own.
    """
    row = f"({', '.join('?' * (len(_COLUMNS) + 1))})"
    last = "(SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'pending'), 0))"
    values = ", ".join(f"column{number}" for number in range(2, len(_COLUMNS) + 2))
    return (
        f"INSERT INTO pending (seq, {', '.join(_COLUMNS)}) SELECT {last} + column1, {values}"
        f" FROM (VALUES {', '.join([row] * count)}) AS new"
        " WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.id = new.column2) ON CONFLICT (id) DO NOTHING"
    )
