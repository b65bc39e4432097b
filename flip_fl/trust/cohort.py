"""The cohort of a project: which query runs, whether enough people are in it, and how it is sent."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flip_fl.trust import refusal, sql
from flip_fl.trust.own import Project, snapshot_table
from flip_fl.trust.selection import Database, Row, Selection
from flip_fl.trust.spools import ARROW_STREAM, JSON, ArrowSpool, Body, JsonSpool, Spool

PERSON_ID = "person_id"


@dataclass(frozen=True)
class Rule:
    """Fewer than ``threshold`` rows, or distinct subjects (values of ``person_id``), are not released."""

    threshold: int
    subjects: bool


def statement_of(project: Project | None, query: str, database: Database, *, frozen: bool) -> str:
    """The one statement that may run for the project: its snapshot's, or the SQL that was sent, as it was checked.

    Raises ``Refusal``: 403 without a snapshot, 403 for a project that the trust does not know, 400 for the SQL.
    """
    if frozen:
        if project is None or project.snapshot is None:
            raise refusal.no_snapshot()
        return f"SELECT * FROM {snapshot_table(database.dialect, project.snapshot)}"
    checked = sql.check(query, database.dialect)
    if project is None:
        raise refusal.too_small()
    return checked


def read_cohort(database: Database, statement: str, rule: Rule, media_type: str) -> Body:
    """Run ``statement`` and hold what is sent as ``media_type``. Raises ``Refusal``."""
    with database.select(statement) as selection:
        if len(set(selection.names)) < len(selection.names):
            raise refusal.same_names()
        census = _Census(rule, selection.names)
        with _spool(selection, media_type) as spool:
            for rows in selection.batches:
                census.count(rows)
                spool.add(rows)
            if not census.enough:
                raise refusal.too_small()
            return spool.body()


def media_type_for(accept: str | None) -> str:
    """What a request's ``Accept`` asks for: Arrow where it is named and nothing is liked better, else JSON."""
    likes = {ARROW_STREAM: 0.0, JSON: 0.0}
    for part in (accept or "").lower().split(","):
        name, *parameters = (word.strip() for word in part.split(";"))
        quality = next((word[2:] for word in parameters if word.startswith("q=")), "1")
        if name in likes and re.fullmatch(r"[01](\.\d{0,3})?", quality):
            likes[name] = float(quality)
    return ARROW_STREAM if likes[ARROW_STREAM] > 0 and likes[ARROW_STREAM] >= likes[JSON] else JSON


@dataclass
class _Census:
    """Counts up to the threshold and not further."""

    rule: Rule
    names: Sequence[str]
    rows: int = 0
    subjects: set[Any] = field(default_factory=set)

    @property
    def enough(self) -> bool:
        return (len(self.subjects) if self.rule.subjects else self.rows) >= self.rule.threshold

    def count(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        # Without person_id nobody can say how many people these are: then there are none.
        if self.enough or PERSON_ID not in self.names:
            return
        place = self.names.index(PERSON_ID)
        self.subjects.update(row[place] for row in rows if row[place] is not None)


@contextmanager
def _spool(selection: Selection, media_type: str) -> Iterator[Spool]:
    arrow = media_type == ARROW_STREAM
    spool: Spool = ArrowSpool(selection.names, selection.kinds) if arrow else JsonSpool(selection.names)
    try:
        yield spool
    except BaseException:
        spool.close()
        raise
