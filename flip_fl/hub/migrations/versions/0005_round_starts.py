"""A way to the rows with which a run's rounds began, past everything else that it has logged.

Revision ID: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    starts: sa.ColumnElement[bool] = sa.literal_column("event_type = 'ROUND_STARTED'")
    op.create_index(
        "ix_fl_logs_starts", "fl_logs", ["model_id", "global_round"], sqlite_where=starts, postgresql_where=starts
    )
