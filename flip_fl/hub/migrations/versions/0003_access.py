"""Who may ask for what; who changed what, in rows that the database itself keeps as they are.

Revision ID: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)

# What may still be said of a change of status: its reason, once, when it was not known before.
_HISTORY_KEPT = "OLD.reason IS NOT NULL OR " + " OR ".join(
    f'OLD."{name}" IS DISTINCT FROM NEW."{name}"' for name in ("id", "model_id", "previous", "status", "by", "at")
)
_APPEND_ONLY = {"hub_audit": None, "models_audit": None, "fl_status_history": _HISTORY_KEPT}


def upgrade() -> None:
    op.create_table(
        "hub_token",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("all_projects", sa.Boolean(), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_hub_token_name", "hub_token", ["name"])
    op.create_table(
        "hub_token_project",
        sa.Column("token_id", sa.String(length=12), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["hub_token.id"]),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"]),
        sa.PrimaryKeyConstraint("token_id", "project_id"),
    )
    op.create_table(
        "hub_session",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("token_id", sa.String(length=12), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("ends_at", _TIME, nullable=False),
        sa.ForeignKeyConstraint(["token_id"], ["hub_token.id"]),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("ix_hub_session_token_id", "hub_session", ["token_id"])
    op.create_index("ix_hub_session_ends_at", "hub_session", ["ends_at"])
    op.create_table(
        "hub_service_key",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("ends_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_table(
        "hub_audit",
        sa.Column("id", _ROW_ID, nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("actor", sa.String(length=255), nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("details", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_hub_audit_subject", "hub_audit", ["subject", "id"])
    if op.get_bind().dialect.name == "sqlite":
        _keep_on_sqlite()
    else:
        _keep_on_postgresql()


def _keep_on_sqlite() -> None:
    for table, condition in _APPEND_ONLY.items():
        # SQLite has always called it IS NOT; the standard's name it knows since 3.39 only.
        when = "" if condition is None else f"WHEN {condition.replace('IS DISTINCT FROM', 'IS NOT')} "
        for act, only in (("UPDATE", when), ("DELETE", "")):
            op.execute(
                f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} {only}"
                f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            )
        # REPLACE would delete the old row without asking the trigger above.
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id) "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )


def _keep_on_postgresql() -> None:
    op.execute(
        "CREATE FUNCTION hub_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$"
    )
    for table, condition in _APPEND_ONLY.items():
        when = "" if condition is None else f"WHEN ({condition}) "
        for act, only in (("UPDATE", when), ("DELETE", "")):
            op.execute(
                f"CREATE TRIGGER {table}_no_{act.lower()} BEFORE {act} ON {table} "
                f"FOR EACH ROW {only}EXECUTE FUNCTION hub_append_only()"
            )
        op.execute(
            f"CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table} "
            f"FOR EACH STATEMENT EXECUTE FUNCTION hub_append_only()"
        )
