"""A place in the rows of a run: what was told up to it, and what is newer.

Ids of one model's rows grow in the order in which they are committed, because whoever writes them holds the model's
row; so nothing with a smaller id can still come.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func
from sqlmodel import Session, col, select

from flip_fl.hub.tables import EventLedger, FlLog, FlMetric
from flip_fl.values import ModelStatus

_TEXT = re.compile(r"^(\d{1,18})\.(\d{1,18})\.(\d{1,9})$", re.ASCII)


@dataclass(frozen=True, order=True)
class Cursor:
    """The newest ids of activity and metrics, and how many late statuses were ignored."""

    log: int
    metric: int
    late: int

    def __str__(self) -> str:
        return f"{self.log}.{self.metric}.{self.late}"

    @classmethod
    def parse(cls, text: str) -> Cursor | None:
        """The cursor that ``text`` spells; None for anything else."""
        found = _TEXT.match(text)
        return None if found is None else cls(*map(int, found.groups()))

    @classmethod
    def at_end(cls, model_id: UUID, session: Session, late: int) -> Cursor:
        """The newest place of a model, two look-ups in an index."""
        log = select(func.max(FlLog.id)).where(col(FlLog.model_id) == model_id).scalar_subquery()
        metric = select(func.max(FlMetric.id)).where(col(FlMetric.model_id) == model_id).scalar_subquery()
        newest = session.execute(select(log, metric)).one()
        return cls(newest[0] or 0, newest[1] or 0, late)


def late_statuses(model_id: UUID, status: ModelStatus, session: Session) -> int:
    """How many statuses of a stopped run came too late; 0 for any other run, where none can be late."""
    if status is not ModelStatus.STOPPED:
        return 0
    return session.exec(
        select(func.count())
        .select_from(EventLedger)
        .where(col(EventLedger.model_id) == model_id, col(EventLedger.applied).is_(False))
    ).one()
