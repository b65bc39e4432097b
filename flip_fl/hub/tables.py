"""The hub's tables. What creates them is the migration; a test holds the two together."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    Uuid,
    literal_column,
)
from sqlalchemy.types import TypeDecorator
from sqlmodel import Field, SQLModel

from flip_fl.values import EventType, ModelAuditAction, ModelStatus


def utc_now() -> datetime:
    """The hub's clock, aware, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware time in UTC on every database; SQLite alone would forget the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else as_utc(value)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else as_utc(value)


class StatusText(TypeDecorator[ModelStatus]):
    """A model's status as text, so that a new status needs no migration of a database's own enum type."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: ModelStatus | str | None, dialect: Dialect) -> str | None:
        return None if value is None else ModelStatus(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> ModelStatus | None:
        return None if value is None else ModelStatus(value)


class ActionText(TypeDecorator[ModelAuditAction]):
    """An audit row's action as text."""

    impl = String(32)
    cache_ok = True

    def process_bind_param(self, value: ModelAuditAction | str | None, dialect: Dialect) -> str | None:
        return None if value is None else ModelAuditAction(value).value

    def process_result_value(self, value: Any, dialect: Dialect) -> ModelAuditAction | None:
        return None if value is None else ModelAuditAction(value)


# Which rows of ``fl_logs`` begin a round. It is spelt once: a database uses an index of some rows only for a query that
# says the same.
STARTS: ColumnElement[bool] = literal_column(f"event_type = '{EventType.ROUND_STARTED}'")
# SQLite numbers rows by itself only in a column of exactly this type.
ROW_ID = BigInteger().with_variant(Integer(), "sqlite")


def as_utc(value: datetime) -> datetime:
    """``value`` in UTC; a time without a zone is taken as UTC. Raises ``OverflowError`` at the calendar's ends."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JobStatus(StrEnum):
    """The life of a job in the hub's queue."""

    QUEUED = "QUEUED"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"


class NetStatus(StrEnum):
    """Whether an FL network is free to run a job."""

    AVAILABLE = "AVAILABLE"
    BUSY = "BUSY"


class Project(SQLModel, table=True):
    """A research project."""

    __tablename__ = "project"
    id: UUID = Field(default_factory=uuid4, primary_key=True, sa_type=Uuid)
    name: str = Field(sa_type=String(255), unique=True)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class Trust(SQLModel, table=True):
    """A hospital. ``code`` is what people read; codes may repeat, names may not."""

    __tablename__ = "trust"
    id: UUID = Field(default_factory=uuid4, primary_key=True, sa_type=Uuid)
    name: str = Field(sa_type=String(255), unique=True)
    code: str | None = Field(default=None, sa_type=String(64), nullable=True)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class Model(SQLModel, table=True):
    """One model and its run. Deleting flags it; rows about it stay.

    ``heard_at`` is when the FL server last reported on it, by the hub's clock and to within seconds; null while a run
    waits in the queue. ``counted_to`` is the last of its metrics that is counted and packed, see ``tallies``.
    """

    __tablename__ = "model"
    id: UUID = Field(default_factory=uuid4, primary_key=True, sa_type=Uuid)
    project_id: UUID = Field(foreign_key="project.id", index=True, sa_type=Uuid)
    name: str = Field(sa_type=String(75))
    description: str = Field(default="", sa_type=String(250))
    status: ModelStatus = Field(default=ModelStatus.PENDING, sa_type=StatusText)
    deleted: bool = Field(default=False)
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    heard_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    counted_to: int = Field(default=0, sa_type=BigInteger)


class ModelTrustIntersect(SQLModel, table=True):
    """Which trusts take part in a model."""

    __tablename__ = "model_trust_intersect"
    model_id: UUID = Field(foreign_key="model.id", primary_key=True, sa_type=Uuid)
    trust_id: UUID = Field(foreign_key="trust.id", primary_key=True, sa_type=Uuid)


class ModelsAudit(SQLModel, table=True):
    """Who did what to a model; ``user_id`` is null for transitions that the FL server reported."""

    __tablename__ = "models_audit"
    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    model_id: UUID = Field(foreign_key="model.id", index=True, sa_type=Uuid)
    action: ModelAuditAction = Field(sa_type=ActionText)
    user_id: str | None = Field(default=None, sa_type=String(255), nullable=True)
    at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class StatusHistory(SQLModel, table=True):
    """Every change of a model's status, with who asked for it and why."""

    __tablename__ = "fl_status_history"
    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    model_id: UUID = Field(foreign_key="model.id", index=True, sa_type=Uuid)
    previous: ModelStatus | None = Field(default=None, sa_type=StatusText, nullable=True)
    status: ModelStatus = Field(sa_type=StatusText)
    by: str = Field(sa_type=String(255))
    reason: str | None = Field(default=None, sa_type=Text, nullable=True)
    at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class EventLedger(SQLModel, table=True):
    """The ids of everything that was stored, so that a copy is recognised.

    ``applied`` is false for a status that came too late to count; ``status`` and ``occurred_at`` say which and when.
    """

    __tablename__ = "fl_event_ledger"
    # On SQLite the key is the table: an index of its own beside it would double what is written.
    __table_args__ = {"sqlite_with_rowid": False}
    model_id: UUID = Field(foreign_key="model.id", primary_key=True, sa_type=Uuid)
    event_id: UUID = Field(primary_key=True, sa_type=Uuid)
    status: ModelStatus | None = Field(default=None, sa_type=StatusText, nullable=True)
    applied: bool = Field(default=True)
    occurred_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class FlLog(SQLModel, table=True):
    """One row of a model's activity: free text, a typed event, or the sentence of a status.

    A row without a trust belongs to the model. ``details`` is JSON as text: a row that cannot be read must not
    keep the others from being read. ``occurred_at`` is the sender's clock, ``log_date`` the hub's.
    """

    __tablename__ = "fl_logs"
    __table_args__ = (
        Index("ix_fl_logs_model_id", "model_id", "id"),
        Index(
            "ix_fl_logs_failures",
            "model_id",
            "id",
            sqlite_where=literal_column("success = 0"),
            postgresql_where=literal_column("NOT success"),
        ),
        Index("ix_fl_logs_starts", "model_id", "global_round", sqlite_where=STARTS, postgresql_where=STARTS),
    )
    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    model_id: UUID = Field(foreign_key="model.id", sa_type=Uuid)
    log_date: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    occurred_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    success: bool = Field(default=True)
    trust_id: UUID | None = Field(default=None, foreign_key="trust.id", sa_type=Uuid, nullable=True)
    fl_client_name: str | None = Field(default=None, sa_type=String(128), nullable=True)
    log: str | None = Field(default=None, sa_type=Text, nullable=True)
    event_type: str | None = Field(default=None, sa_type=String(64), nullable=True)
    global_round: int | None = Field(default=None, sa_type=Integer, nullable=True)
    details: str | None = Field(default=None, sa_type=Text, nullable=True)
    status: ModelStatus | None = Field(default=None, sa_type=StatusText, nullable=True)


class FlMetric(SQLModel, table=True):
    """One measured number of one trust; a plot is identified by (label, x_label)."""

    __tablename__ = "fl_metrics"
    __table_args__ = (Index("ix_fl_metrics_model_id", "model_id", "id"),)
    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    model_id: UUID = Field(foreign_key="model.id", sa_type=Uuid)
    trust_id: UUID = Field(foreign_key="trust.id", sa_type=Uuid)
    fl_client_name: str | None = Field(default=None, sa_type=String(128), nullable=True)
    global_round: int = Field(sa_type=Integer)
    label: str = Field(sa_type=String(255))
    result: float = Field(sa_type=Float(53))
    x_label: str = Field(sa_type=String(64))
    x_value: float = Field(sa_type=Float(53))
    task: str | None = Field(default=None, sa_type=String(64), nullable=True)
    stage: str | None = Field(default=None, sa_type=String(64), nullable=True)
    occurred_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class FlMetricSeries(SQLModel, table=True):
    """How many metrics were counted of one slot of one trust for one plot; ``fl_client_name`` is empty for none."""

    __tablename__ = "fl_metric_series"
    __table_args__ = {"sqlite_with_rowid": False}
    model_id: UUID = Field(foreign_key="model.id", primary_key=True, sa_type=Uuid)
    label: str = Field(primary_key=True, sa_type=String(255))
    x_label: str = Field(primary_key=True, sa_type=String(64))
    trust_id: UUID = Field(foreign_key="trust.id", primary_key=True, sa_type=Uuid)
    fl_client_name: str = Field(primary_key=True, sa_type=String(128))
    points: int = Field(sa_type=BigInteger)
    newest: datetime = Field(sa_type=UtcDateTime)


class FlMetricBlock(SQLModel, table=True):
    """Rows of ``FlMetric`` once more, packed to be read at once, see ``blocks``: the model's up to ``last_id``."""

    __tablename__ = "fl_metric_blocks"
    model_id: UUID = Field(foreign_key="model.id", primary_key=True, sa_type=Uuid)
    last_id: int = Field(primary_key=True, sa_type=BigInteger, sa_column_kwargs={"autoincrement": False})
    first_id: int = Field(sa_type=BigInteger)
    first_round: int = Field(sa_type=Integer)
    last_round: int = Field(sa_type=Integer)
    body: bytes = Field(sa_type=LargeBinary)


class FlRoundScore(SQLModel, table=True):
    """That a slot has measured the new model of a round."""

    __tablename__ = "fl_round_scores"
    __table_args__ = {"sqlite_with_rowid": False}
    model_id: UUID = Field(foreign_key="model.id", primary_key=True, sa_type=Uuid)
    global_round: int = Field(primary_key=True, sa_type=Integer, sa_column_kwargs={"autoincrement": False})
    fl_client_name: str = Field(primary_key=True, sa_type=String(128))


class FlKitSlot(SQLModel, table=True):
    """The name of a participant, minted before anyone owns it. A retired slot is never assigned again."""

    __tablename__ = "fl_kit_slot"
    __table_args__ = (UniqueConstraint("assigned_to_trust_id", name="uq_fl_kit_slot_trust"),)
    slot_name: str = Field(primary_key=True, sa_type=String(128))
    slot_number: int = Field(sa_type=Integer, unique=True)
    assigned_to_trust_id: UUID | None = Field(default=None, foreign_key="trust.id", sa_type=Uuid, nullable=True)
    assigned_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    fingerprint: str | None = Field(default=None, sa_type=String(128), nullable=True)
    retired_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class SlotRevocation(SQLModel, table=True):
    """A released slot whose credentials must not connect any more."""

    __tablename__ = "fl_slot_revocation"
    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    slot_name: str = Field(foreign_key="fl_kit_slot.slot_name", index=True, sa_type=String(128))
    fingerprint: str | None = Field(default=None, sa_type=String(128), nullable=True)
    revoked_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)


class FlNet(SQLModel, table=True):
    """One FL network: a server and its clients."""

    __tablename__ = "fl_nets"
    id: UUID = Field(default_factory=uuid4, primary_key=True, sa_type=Uuid)
    name: str = Field(sa_type=String(64), unique=True)
    endpoint: str = Field(default="", sa_type=String(255))


class FlJob(SQLModel, table=True):
    """One attempt to run a model on a net."""

    __tablename__ = "fl_job"
    id: UUID = Field(default_factory=uuid4, primary_key=True, sa_type=Uuid)
    model_id: UUID = Field(foreign_key="model.id", index=True, sa_type=Uuid)
    status: str = Field(default=JobStatus.QUEUED, sa_type=String(32))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)
    completed_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class FlJobTrust(SQLModel, table=True):
    """Which trusts a job was given to."""

    __tablename__ = "fl_job_trust"
    job_id: UUID = Field(foreign_key="fl_job.id", primary_key=True, sa_type=Uuid)
    trust_id: UUID = Field(foreign_key="trust.id", primary_key=True, sa_type=Uuid)


class FlScheduler(SQLModel, table=True):
    """A net's occupation: which job it runs, if any."""

    __tablename__ = "fl_scheduler"
    net_id: UUID = Field(foreign_key="fl_nets.id", primary_key=True, sa_type=Uuid)
    status: str = Field(default=NetStatus.AVAILABLE, sa_type=String(32))
    job_id: UUID | None = Field(default=None, foreign_key="fl_job.id", index=True, sa_type=Uuid, nullable=True)


class HubPresence(SQLModel, table=True):
    """Since when a hub has been there without a break, and when it last was: one row, whose id is 1."""

    __tablename__ = "fl_hub_presence"
    id: int = Field(primary_key=True, sa_type=Integer, sa_column_kwargs={"autoincrement": False})
    up_since: datetime = Field(sa_type=UtcDateTime)
    seen_at: datetime = Field(sa_type=UtcDateTime)
