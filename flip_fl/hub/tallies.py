"""A model's metrics counted and packed, so that nobody who reads a run passes over millions of rows.

Now and then, up to the row in ``Model.counted_to``: how many points each series has, which sites have measured a
round's model, and the rows themselves in ``blocks``; what came since is looked at when somebody asks. To count with
every batch would write another row for each metric: in a round a site measures each of its metrics once.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, literal_column, select, text
from sqlmodel import Session, col
from sqlmodel import select as select_model
from sqlmodel.sql.expression import SelectOfScalar

from flip_fl.hub.blocks import pack
from flip_fl.hub.model_service import lock_model
from flip_fl.hub.tables import FlMetric, FlMetricBlock, Model, utc_now

# So many rows are read in the time of one redraw; a run of a hundred sites measures them in ten rounds.
ROLL_ROWS = 20_000
# What is packed at once: in the memory of a small part of a batch, and while the model's senders wait a moment.
_BLOCK_ROWS = 32_768
# Whoever was heard of within this time may have sent more.
_RECENT = timedelta(minutes=2)
# A trust as text: of thousands of rows only the trusts that are in them are looked at.
_PACKED = text(
    "SELECT label, x_label, CAST(trust_id AS VARCHAR(36)), fl_client_name, id, x_value, result, global_round "
    "FROM fl_metrics WHERE model_id = :model AND id > :after ORDER BY id LIMIT :most"
)
_KEY = "model_id, label, x_label, trust_id, fl_client_name"
_SERIES = text(
    f"INSERT INTO fl_metric_series ({_KEY}, points, newest) "
    "SELECT model_id, label, x_label, trust_id, coalesce(fl_client_name, ''), count(*), max(occurred_at) "
    "FROM fl_metrics WHERE model_id = :model AND id > :after AND id <= :newest "
    "GROUP BY model_id, label, x_label, trust_id, coalesce(fl_client_name, '') "
    f"ON CONFLICT ({_KEY}) DO UPDATE SET points = fl_metric_series.points + excluded.points, "
    "newest = CASE WHEN excluded.newest > fl_metric_series.newest THEN excluded.newest ELSE fl_metric_series.newest END"
)
_SCORES = text(
    "INSERT INTO fl_round_scores (model_id, global_round, fl_client_name) "
    "SELECT DISTINCT model_id, global_round, fl_client_name FROM fl_metrics "
    "WHERE model_id = :model AND id > :after AND id <= :newest AND task = 'validate' AND fl_client_name IS NOT NULL "
    "ON CONFLICT (model_id, global_round, fl_client_name) DO NOTHING"
)


def roll_recent(session: Session) -> None:
    """Count and pack what came of every model that was heard of lately. Commits."""
    _roll_all(session, select_model(Model.id).where(col(Model.heard_at) > utc_now() - _RECENT))


def roll_everything(session: Session) -> None:
    """Count and pack what is there of every model, as after an older version. Commits."""
    _roll_all(session, select_model(Model.id))


def _roll_all(session: Session, wanted: SelectOfScalar[UUID]) -> None:
    for model_id in session.exec(wanted).all():
        session.commit()
        while roll(model_id, session):
            pass
    session.commit()


def roll(model_id: UUID, session: Session, *, least: int = ROLL_ROWS) -> bool:
    """Count and pack a model's new metrics if there are ``least`` of them, in a transaction of its own; whether it was
    done. Of very many only the oldest.

    The model is locked: nobody is just about to store one of its metrics under a lower number.
    """
    model = lock_model(model_id, session)
    new = col(FlMetric.model_id) == model_id
    if model is not None:
        new = new & (col(FlMetric.id) > model.counted_to)
        some = select(literal_column("1")).select_from(FlMetric).where(new).limit(least).subquery()
        if session.execute(select(func.count()).select_from(some)).scalar_one() >= max(1, least):
            facts = _facts(model_id, model.counted_to, session)
            rows = session.execute(_PACKED, {**facts, "most": _BLOCK_ROWS}).all()
            block = pack(rows)
            for statement in (_SERIES, _SCORES):
                session.execute(statement, {**facts, "newest": block.last_id})
            session.add(
                FlMetricBlock(
                    model_id=model_id,
                    first_id=block.first_id,
                    last_id=block.last_id,
                    first_round=block.first_round,
                    last_round=block.last_round,
                    body=block.body,
                )
            )
            model.counted_to = block.last_id
            session.commit()
            return True
    session.rollback()
    return False


def _facts(model_id: UUID, after: int, session: Session) -> dict[str, object]:
    spelt = model_id.hex if session.get_bind().dialect.name == "sqlite" else model_id
    return {"model": spelt, "after": after}
