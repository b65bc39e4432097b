"""The hub's tables about who may ask for what, and who changed what. No table holds a key, only hashes of keys."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, String, Text, Uuid
from sqlmodel import Field, SQLModel

from flip_fl.hub.tables import ROW_ID, UtcDateTime, utc_now


class LoginToken(SQLModel, table=True):
    """What a person or a program logs in with. Over after ``ends_at``; a revoked one has ended then.

    ``all_projects`` false: only those of ``LoginTokenProject``, which may be none.
    """

    __tablename__ = "hub_token"
    id: str = Field(primary_key=True, sa_type=String(12))
    name: str = Field(sa_type=String(255), index=True)
    role: str = Field(sa_type=String(16))
    all_projects: bool = Field(default=True)
    hash: str = Field(sa_type=String(64))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    ends_at: datetime = Field(sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class LoginTokenProject(SQLModel, table=True):
    """A project that a token reaches."""

    __tablename__ = "hub_token_project"
    token_id: str = Field(foreign_key="hub_token.id", primary_key=True, sa_type=String(12))
    project_id: UUID = Field(foreign_key="project.id", primary_key=True, sa_type=Uuid)


class LoginSession(SQLModel, table=True):
    """A browser that logged in with a token. It ends with that token at the latest."""

    __tablename__ = "hub_session"
    hash: str = Field(primary_key=True, sa_type=String(64))
    token_id: str = Field(foreign_key="hub_token.id", index=True, sa_type=String(12))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    ends_at: datetime = Field(index=True, sa_type=UtcDateTime)


class ServiceKey(SQLModel, table=True):
    """A service key by its hash. ``ends_at`` null: until it is rotated or revoked.

    The key of the hub's settings has a row here only once it has an end.
    """

    __tablename__ = "hub_service_key"
    hash: str = Field(primary_key=True, sa_type=String(64))
    created_at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    ends_at: datetime | None = Field(default=None, sa_type=UtcDateTime, nullable=True)


class HubAudit(SQLModel, table=True):
    """Who changed what, and when. The database itself refuses to change or remove a row.

    ``details`` is a JSON object as text; ``project_id`` is there where the change is about one project.
    """

    __tablename__ = "hub_audit"
    __table_args__ = (Index("ix_hub_audit_subject", "subject", "id"),)
    id: int | None = Field(default=None, primary_key=True, sa_type=ROW_ID)
    at: datetime = Field(default_factory=utc_now, sa_type=UtcDateTime)
    actor: str = Field(sa_type=String(255))
    actor_kind: str = Field(sa_type=String(16))
    action: str = Field(sa_type=String(64))
    subject: str = Field(sa_type=String(255))
    project_id: UUID | None = Field(default=None, sa_type=Uuid, nullable=True)
    details: str = Field(default="{}", sa_type=Text)
