"""The outbox file's tables, and the statements that run often."""

from __future__ import annotations

from functools import cache

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE pending (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE, lane INTEGER NOT NULL, terminal INTEGER NOT NULL,
  own INTEGER NOT NULL, attempted INTEGER NOT NULL DEFAULT 0, created_ms INTEGER NOT NULL, size INTEGER NOT NULL,
  body TEXT NOT NULL);
CREATE INDEX pending_order ON pending (lane, seq);
CREATE TABLE lanes (lane INTEGER PRIMARY KEY, rows INTEGER NOT NULL, bytes INTEGER NOT NULL);
INSERT INTO lanes VALUES (0, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0);
CREATE TABLE seen (n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL UNIQUE);
CREATE TABLE dead (
  n INTEGER PRIMARY KEY AUTOINCREMENT, id BLOB NOT NULL, at_ms INTEGER NOT NULL, code TEXT NOT NULL, detail TEXT,
  body TEXT NOT NULL);
CREATE TRIGGER pending_in AFTER INSERT ON pending BEGIN
  UPDATE lanes SET rows = rows + 1, bytes = bytes + NEW.size WHERE lane = NEW.lane; END;
CREATE TRIGGER pending_out AFTER DELETE ON pending BEGIN
  UPDATE lanes SET rows = rows - 1, bytes = bytes - OLD.size WHERE lane = OLD.lane; END;
CREATE TABLE losses (reason TEXT PRIMARY KEY, count INTEGER NOT NULL, reported INTEGER NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""

STATEMENTS = tuple(statement for statement in _SCHEMA.split(";\n") if statement.strip())

COLLECT = """
SELECT id, body, terminal, own, attempted, seq FROM pending WHERE lane = ? AND seq > ? ORDER BY seq LIMIT ?
"""

_COLUMNS = ("id", "lane", "terminal", "own", "attempted", "created_ms", "size", "body")


@cache
def append_statement(count: int) -> str:
    """Insert ``count`` rows, except those whose ids are here or were."""
    row = f"({', '.join('?' * len(_COLUMNS))})"
    return (
        f"INSERT INTO pending ({', '.join(_COLUMNS)}) SELECT * FROM (VALUES {', '.join([row] * count)}) AS new"
        " WHERE NOT EXISTS (SELECT 1 FROM seen WHERE seen.id = new.column1) ON CONFLICT (id) DO NOTHING"
    )
