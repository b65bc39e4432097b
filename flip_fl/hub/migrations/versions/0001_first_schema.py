"""The first schema.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "fl_nets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("endpoint", sa.String(length=255), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "project",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "trust",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("code", sa.String(length=64), nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "fl_kit_slot",
        sa.Column("slot_name", sa.String(length=128), nullable=False),
        sa.Column("slot_number", sa.Integer(), nullable=False),
        sa.Column("assigned_to_trust_id", sa.Uuid(), nullable=True),
        sa.Column("assigned_at", _TIME, nullable=True),
        sa.Column("fingerprint", sa.String(length=128), nullable=True),
        sa.Column("retired_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["assigned_to_trust_id"], ["trust.id"]),
        sa.PrimaryKeyConstraint("slot_name"),
        sa.UniqueConstraint("assigned_to_trust_id", name="uq_fl_kit_slot_trust"),
        sa.UniqueConstraint("slot_number"),
    )
    op.create_table(
        "model",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=75), nullable=False),
        sa.Column("description", sa.String(length=250), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_model_project_id", "model", ["project_id"])
    op.create_table(
        "fl_event_ledger",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=True),
        sa.Column("applied", sa.Boolean(), nullable=False),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("model_id", "event_id"),
    )
    op.create_table(
        "fl_job",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("completed_at", _TIME, nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_fl_job_model_id", "fl_job", ["model_id"])
    op.create_table(
        "fl_logs",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("log_date", _TIME, nullable=False),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.Column("success", sa.Boolean(), nullable=False),
        sa.Column("trust_id", sa.Uuid(), nullable=True),
        sa.Column("fl_client_name", sa.String(length=128), nullable=True),
        sa.Column("log", sa.Text(), nullable=True),
        sa.Column("event_type", sa.String(length=64), nullable=True),
        sa.Column("global_round", sa.Integer(), nullable=True),
        sa.Column("details", sa.Text(), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_fl_logs_model_id", "fl_logs", ["model_id", "id"])
    op.create_table(
        "fl_metrics",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("trust_id", sa.Uuid(), nullable=False),
        sa.Column("fl_client_name", sa.String(length=128), nullable=True),
        sa.Column("global_round", sa.Integer(), nullable=False),
        sa.Column("label", sa.String(length=255), nullable=False),
        sa.Column("result", sa.Float(precision=53), nullable=False),
        sa.Column("x_label", sa.String(length=64), nullable=False),
        sa.Column("x_value", sa.Float(precision=53), nullable=False),
        sa.Column("task", sa.String(length=64), nullable=True),
        sa.Column("stage", sa.String(length=64), nullable=True),
        sa.Column("occurred_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_fl_metrics_model_id", "fl_metrics", ["model_id", "id"])
    op.create_table(
        "fl_slot_revocation",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("slot_name", sa.String(length=128), nullable=False),
        sa.Column("fingerprint", sa.String(length=128), nullable=True),
        sa.Column("revoked_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["slot_name"], ["fl_kit_slot.slot_name"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_fl_slot_revocation_slot_name", "fl_slot_revocation", ["slot_name"])
    op.create_table(
        "fl_status_history",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("previous", sa.String(length=32), nullable=True),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("by", sa.String(length=255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_fl_status_history_model_id", "fl_status_history", ["model_id"])
    op.create_table(
        "model_trust_intersect",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("trust_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"]),
        sa.PrimaryKeyConstraint("model_id", "trust_id"),
    )
    op.create_table(
        "models_audit",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("action", sa.String(length=32), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=True),
        sa.Column("at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_models_audit_model_id", "models_audit", ["model_id"])
    op.create_table(
        "fl_job_trust",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("trust_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["fl_job.id"]),
        sa.ForeignKeyConstraint(["trust_id"], ["trust.id"]),
        sa.PrimaryKeyConstraint("job_id", "trust_id"),
    )
    op.create_table(
        "fl_scheduler",
        sa.Column("net_id", sa.Uuid(), nullable=False),
        sa.Column("status", sa.String(length=32), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["fl_job.id"]),
        sa.ForeignKeyConstraint(["net_id"], ["fl_nets.id"]),
        sa.PrimaryKeyConstraint("net_id"),
    )
    op.create_index("ix_fl_scheduler_job_id", "fl_scheduler", ["job_id"])
