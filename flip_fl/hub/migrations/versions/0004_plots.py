"""A run's points packed and counted, and a way to its failures that passes over everything else.

What is there already is packed and counted by ``tallies``, not here.

Revision ID: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
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
    op.create_table(
        "fl_metric_blocks",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("last_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("first_id", sa.BigInteger(), nullable=False),
        sa.Column("first_round", sa.Integer(), nullable=False),
        sa.Column("last_round", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("model_id", "last_id"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Numbers hardly shrink: PostgreSQL is not to try.
        op.execute("ALTER TABLE fl_metric_blocks ALTER COLUMN body SET STORAGE EXTERNAL")
