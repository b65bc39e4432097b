"""A plot's points in one place, the count of each series, and ways to a run's failures that pass over everything else.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_PLOT = ["model_id", "label", "x_label", "id", "x_value", "result", "global_round", "trust_id", "fl_client_name"]
COUNT = (
    "INSERT INTO fl_metric_series (model_id, label, x_label, trust_id, fl_client_name, points, newest) "
    "SELECT model_id, label, x_label, trust_id, coalesce(fl_client_name, ''), count(*), max(occurred_at) "
    "FROM fl_metrics GROUP BY model_id, label, x_label, trust_id, coalesce(fl_client_name, '')",
    "INSERT INTO fl_round_scores (model_id, global_round, fl_client_name) "
    "SELECT DISTINCT model_id, global_round, fl_client_name FROM fl_metrics "
    "WHERE task = 'validate' AND fl_client_name IS NOT NULL",
    "UPDATE model SET counted_to = coalesce((SELECT max(id) FROM fl_metrics WHERE fl_metrics.model_id = model.id), 0)",
)


def upgrade() -> None:
    op.create_index("ix_fl_metrics_plot", "fl_metrics", _PLOT)
    op.create_index(
        "ix_fl_logs_failures",
        "fl_logs",
        ["model_id", "id"],
        sqlite_where=sa.literal_column("success = 0"),
        postgresql_where=sa.literal_column("NOT success"),
    )
    op.create_table(
        "fl_metric_series",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("x_label", sa.String(length=64), nullable=False),
        sa.Column("trust_id", sa.Uuid(), nullable=False),
        sa.Column("fl_client_name", sa.String(length=128), nullable=False),
        sa.Column("points", sa.BigInteger(), nullable=False),
        sa.Column("newest", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"]),
        sa.PrimaryKeyConstraint("model_id", "label", "x_label", "trust_id", "fl_client_name"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "fl_round_scores",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("global_round", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("fl_client_name", sa.String(length=128), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("model_id", "global_round", "fl_client_name"),
        sqlite_with_rowid=False,
    )
    op.add_column("model", sa.Column("counted_to", sa.BigInteger(), nullable=False, server_default="0"))
    for statement in COUNT:
        op.execute(statement)
