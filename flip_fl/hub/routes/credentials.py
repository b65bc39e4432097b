"""Login tokens, service keys and the audit: for administrators alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field

from flip_fl.hub import admin, audit, service_keys, tokens
from flip_fl.hub.access import Admin, acting
from flip_fl.hub.roles import Role
from flip_fl.hub.routes.dependencies import CONFLICT, Reading, Writing

router = APIRouter()

_NO_NUL = r"^[^\x00]*$"
_MAX_OVERLAP_S = 2_592_000
TokenId = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The token's id, the second part of it.")]
Fingerprint = Annotated[str, Path(pattern=r"^[0-9a-f]{12}$", description="The first digits of the key's SHA-256.")]


class TokenNew(BaseModel):
    """``POST /tokens``. ``projects`` by id or name; null: all of them, those to come too (an admin's must be)."""

    name: Annotated[str, Field(min_length=1, max_length=255, pattern=_NO_NUL)]
    role: Literal["viewer", "operator", "admin"] = "viewer"
    projects: Annotated[list[Annotated[str, Field(max_length=255, pattern=_NO_NUL)]], Field(max_length=1000)] | None = (
        None
    )
    days: Annotated[int, Field(ge=1, le=tokens.LONGEST.days)] = tokens.LIFETIME.days


class Overlap(BaseModel):
    """For how many seconds the old one still counts: at most 30 days."""

    overlapS: Annotated[int, Field(ge=0, le=_MAX_OVERLAP_S)] = int(tokens.OVERLAP.total_seconds())


class TokenOut(BaseModel):
    """A token without its secret. ``projects`` null: all."""

    id: str
    name: str
    role: Role
    projects: list[str] | None
    createdAt: datetime
    endsAt: datetime
    state: Literal["valid", "expired", "revoked"]


class TokenIssued(TokenOut):
    """A token that was made just now. ``token`` is the whole of it: it is shown this once."""

    token: str


class KeyOut(BaseModel):
    """A service key by its fingerprint. ``endsAt`` null: until it is rotated. Of the settings' key no age is known."""

    fingerprint: str
    source: Literal["settings", "database"]
    createdAt: datetime | None
    endsAt: datetime | None
    valid: bool


class KeyIssued(KeyOut):
    """A service key that was made just now. ``key`` is shown this once."""

    key: str


class AuditOut(BaseModel):
    """One change: who (and how the hub knows), when, what, and of which thing."""

    id: int
    at: datetime
    actor: str
    actorKind: str
    action: str
    subject: str
    details: dict[str, Any]


@router.get("/tokens", tags=["tokens"])
def read_tokens(_who: Admin, session: Reading, ended: bool = False) -> list[TokenOut]:
    """The login tokens by name; those that are over only when asked for."""
    return [TokenOut(**_token(info)) for info in tokens.listed(session, ended=ended)]


@router.post("/tokens", tags=["tokens"], status_code=201)
def issue_token(wanted: TokenNew, who: Admin, session: Writing) -> TokenIssued:
    """A new login token. The secret is shown in this answer only. 400 for an admin of some projects, 404 for one."""
    projects = None
    if wanted.projects is not None:
        projects = [admin.find_project(session, name).id for name in wanted.projects]
    lifetime = timedelta(days=wanted.days)
    return _issued(tokens.issue(acting(session, who), wanted.name, Role(wanted.role), projects, lifetime=lifetime))


@router.post("/tokens/{token_id}/rotate", tags=["tokens"], status_code=201, responses=CONFLICT)
def rotate_token(token_id: TokenId, overlap: Overlap, who: Admin, session: Writing) -> TokenIssued:
    """A successor of this token, which ends after the overlap. 409 when it is over already."""
    return _issued(tokens.rotate(acting(session, who), token_id, overlap=timedelta(seconds=overlap.overlapS)))


@router.delete("/tokens/{token_id}", tags=["tokens"])
def revoke_token(token_id: TokenId, who: Admin, session: Writing) -> TokenOut:
    """End a token at once, and every browser that is logged in with it."""
    return TokenOut(**_token(tokens.revoke(acting(session, who), token_id)))


@router.get("/keys", tags=["keys"])
def read_keys(_who: Admin, session: Reading, request: Request) -> list[KeyOut]:
    """The service keys: that of the settings first, then oldest first."""
    return [KeyOut(**_key(info)) for info in service_keys.listed(session, _settings_hash(request))]


@router.post("/keys", tags=["keys"], status_code=201)
def rotate_key(overlap: Overlap, who: Admin, session: Writing, request: Request) -> KeyIssued:
    """A new service key. The others end after the overlap; this one is shown in this answer only."""
    within = timedelta(seconds=overlap.overlapS)
    key, info = service_keys.rotate(acting(session, who), _settings_hash(request), overlap=within)
    request.app.state.service_keys.forget()
    return KeyIssued(**_key(info), key=key)


@router.delete("/keys/{fingerprint}", tags=["keys"])
def revoke_key(fingerprint: Fingerprint, who: Admin, session: Writing, request: Request) -> KeyOut:
    """End a service key at once. FL servers that have no other one can no longer report."""
    info = service_keys.revoke(acting(session, who), _settings_hash(request), fingerprint)
    request.app.state.service_keys.forget()
    return KeyOut(**_key(info))


@router.get("/audit", tags=["audit"])
def read_audit(
    _who: Admin,
    session: Reading,
    limit: Annotated[int, Query(ge=1, le=audit.MAX_ROWS)] = 100,
    before: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="Only rows older than this id.")] = None,
    subject: Annotated[str | None, Query(max_length=255, pattern=_NO_NUL, description="Only of this thing.")] = None,
) -> list[AuditOut]:
    """Who changed what, newest first."""
    return [
        AuditOut(
            id=row.id,
            at=row.at,
            actor=row.actor,
            actorKind=row.actor_kind,
            action=row.action,
            subject=row.subject,
            details=row.details,
        )
        for row in audit.entries(session, limit=limit, before=before, subject=subject)
    ]


def _settings_hash(request: Request) -> str:
    return str(request.app.state.settings.service_key_hash)


def _token(info: tokens.TokenInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "name": info.name,
        "role": info.role,
        "projects": None if info.projects is None else list(info.projects),
        "createdAt": info.created_at,
        "endsAt": info.ends_at,
        "state": info.state,
    }


def _issued(made: tokens.IssuedToken) -> TokenIssued:
    return TokenIssued(**_token(made.info), token=made.secret)


def _key(info: service_keys.KeyInfo) -> dict[str, Any]:
    return {
        "fingerprint": info.fingerprint,
        "source": info.source,
        "createdAt": info.created_at,
        "endsAt": info.ends_at,
        "valid": info.valid,
    }
