"""How many points each series has, and which sites have measured a round's model, without counting millions of rows.

A model's metrics are counted into two tables now and then, up to the row in ``Model.counted_to``; what came since is
counted when somebody asks. To count with every batch would write another row for each metric: in a round a site
measures each of its metrics once.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, literal_column, select, text
from sqlmodel import Session, col
from sqlmodel import select as select_model

from flip_fl.hub.model_service import lock_model
from flip_fl.hub.tables import FlMetric, Model, utc_now

# So many rows are counted in the time of one redraw; a run of a hundred sites measures them in ten rounds.
ROLL_ROWS = 20_000
# Whoever was heard of within this time may have sent more.
_RECENT = timedelta(minutes=2)
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
    """Count what came of every model that was heard of lately. Commits."""
    recent = select_model(Model.id).where(col(Model.heard_at) > utc_now() - _RECENT)
    for model_id in session.exec(recent).all():
        session.commit()
        roll(model_id, session)
    session.commit()


def roll(model_id: UUID, session: Session, *, least: int = ROLL_ROWS) -> bool:
    """Count a model's new metrics if there are ``least`` of them, in a transaction of its own; whether it was done.

    The model is locked: nobody is just about to store one of its metrics under a lower number.
    """
    model = lock_model(model_id, session)
    new = col(FlMetric.model_id) == model_id
    if model is not None:
        new = new & (col(FlMetric.id) > model.counted_to)
        some = select(literal_column("1")).select_from(FlMetric).where(new).limit(least).subquery()
        if session.execute(select(func.count()).select_from(some)).scalar_one() >= max(1, least):
            newest = session.execute(select(func.max(FlMetric.id)).where(new)).scalar_one()
            for statement in (_SERIES, _SCORES):
                session.execute(statement, _facts(model_id, model.counted_to, newest, session))
            model.counted_to = newest
            session.commit()
            return True
    session.rollback()
    return False


def _facts(model_id: UUID, after: int, newest: int, session: Session) -> dict[str, object]:
    spelt = model_id.hex if session.get_bind().dialect.name == "sqlite" else model_id
    return {"model": spelt, "after": after, "newest": newest}
