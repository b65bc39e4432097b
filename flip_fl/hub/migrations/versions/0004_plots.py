"""Ways to one plot's points and to a run's failures that pass over everything else.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_fl_metrics_plot", "fl_metrics", ["model_id", "label", "x_label"])
    op.create_index(
        "ix_fl_logs_failures",
        "fl_logs",
        ["model_id", "id"],
        sqlite_where=sa.literal_column("success = 0"),
        postgresql_where=sa.literal_column("NOT success"),
    )
