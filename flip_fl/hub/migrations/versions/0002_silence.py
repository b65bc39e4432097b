"""When an FL server was last heard of, since when the hub itself is there, and a ledger of half the size.

Revision ID: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "fl_hub_presence",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("up_since", _TIME, nullable=False),
        sa.Column("seen_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.add_column("model", sa.Column("heard_at", _TIME, nullable=True))
    # Of a run under way, the last row tells when its server was heard of.
    op.execute(
        "UPDATE model SET heard_at = (SELECT max(log_date) FROM fl_logs WHERE fl_logs.model_id = model.id) "
        "WHERE status IN ('INITIATED', 'PREPARED', 'RUNNING')"
    )
    if op.get_bind().dialect.name == "sqlite":
        _rebuild_ledger()
    else:
        # Older rows keep their time: to rewrite millions of them would gain nothing.
        op.alter_column("fl_event_ledger", "occurred_at", nullable=True)


def _rebuild_ledger() -> None:
    """SQLite: the table becomes its key's own index, in the order of the ids."""
    op.create_table(
        "fl_event_ledger_new",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=True),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("occurred_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("model_id", "event_id"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO fl_event_ledger_new (model_id, event_id, status, applied, occurred_at) "
        "SELECT model_id, event_id, status, applied, CASE WHEN applied THEN NULL ELSE occurred_at END "
        "FROM fl_event_ledger ORDER BY model_id, event_id"
    )
    op.drop_table("fl_event_ledger")
    op.rename_table("fl_event_ledger_new", "fl_event_ledger")
