"""Login tokens: made once, shown once, kept as hashes, rotated with an overlap."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlmodel import Session, col, select, update

from flip_fl.errors import FlipError
from flip_fl.hub import audit
from flip_fl.hub.access_tables import LoginSession, LoginToken, LoginTokenProject
from flip_fl.hub.roles import Role
from flip_fl.hub.tables import Project, utc_now
from flip_fl.values import natural_key

LIFETIME = timedelta(days=365)
LONGEST = timedelta(days=3650)
OVERLAP = timedelta(hours=24)

# 256 random bits: too many to guess, so that one round of SHA-256 is enough to keep what is stored useless.
_SECRET_BYTES = 32
_SHAPE = re.compile(r"flip_([0-9a-f]{12})_[A-Za-z0-9_-]{43}", re.ASCII)


@dataclass(frozen=True)
class TokenInfo:
    """One token without its secret; ``projects`` are names, None: all. ``state``: valid, expired or revoked."""

    id: str
    name: str
    role: Role
    projects: tuple[str, ...] | None
    created_at: datetime
    ends_at: datetime
    state: str


@dataclass(frozen=True)
class IssuedToken:
    """A token that was made just now: ``secret`` is the whole of it, and kept nowhere."""

    info: TokenInfo
    secret: str


def digest(text: str) -> str:
    """SHA-256 of what a caller presents, as 64 hexadecimal digits. A header's bytes arrive as latin-1 text."""
    return hashlib.sha256(text.encode("latin-1", "replace")).hexdigest()


def issue(
    session: Session,
    name: str,
    role: Role | str,
    projects: Collection[UUID] | None = None,
    *,
    lifetime: timedelta = LIFETIME,
) -> IssuedToken:
    """Make a token for ``name`` and commit. ``projects`` None: all of them, those to come too.

    Raises ``FlipError`` E1005 for an admin of some projects only, a role that no person has, a name of 0 or over 255
    letters, or a lifetime over ten years; E1002 for a project that is not there.
    """
    issued = _issue(session, name, role, projects, lifetime)
    session.commit()
    return issued


def rotate(session: Session, token_id: str, *, overlap: timedelta = OVERLAP) -> IssuedToken:
    """Make another token like this one, which ends after ``overlap``, and commit.

    Raises ``FlipError`` E1002 for a token that is not there, E1008 for one that is over.
    """
    old = _find(session, token_id)
    now = utc_now()
    if state(old, now) != "valid":
        session.rollback()
        raise FlipError("E1008", id=token_id, state=state(old, now), name=old.name, role=old.role)
    issued = _issue(session, old.name, old.role, _projects(session, old), old.ends_at - old.created_at)
    old.ends_at = min(old.ends_at, now + overlap)
    ends = old.ends_at.isoformat(timespec="seconds")
    audit.record(session, "token.rotated", old.id, name=old.name, successor=issued.info.id, ends=ends)
    session.commit()
    return issued


def revoke(session: Session, token_id: str) -> TokenInfo:
    """End a token and what was logged in with it, and commit; harmless when done before. ``FlipError`` E1002."""
    token = _find(session, token_id)
    if token.revoked_at is None:
        token.revoked_at = utc_now()
        session.execute(
            update(LoginSession).where(col(LoginSession.token_id) == token.id).values(ends_at=token.revoked_at)
        )
        audit.record(session, "token.revoked", token.id, name=token.name)
    session.commit()
    return _info(session, token, utc_now())


def listed(session: Session, *, ended: bool = False) -> Sequence[TokenInfo]:
    """The tokens by name, oldest first; those that are over only when asked for."""
    now = utc_now()
    rows = session.exec(select(LoginToken).order_by(col(LoginToken.created_at), col(LoginToken.id))).all()
    infos = [_info(session, row, now) for row in rows]
    return sorted((i for i in infos if ended or i.state == "valid"), key=lambda info: natural_key(info.name))


def presented(session: Session, secret: str) -> LoginToken | None:
    """The token that ``secret`` is, whether it is over or not; None for anything else."""
    shape = _SHAPE.fullmatch(secret)
    token = session.get(LoginToken, shape[1]) if shape else None
    # One comparison in any case: how long the answer takes tells nobody which ids there are.
    same = hmac.compare_digest(digest(secret), token.hash if token else digest(""))
    return token if token is not None and same else None


def state(token: LoginToken, now: datetime) -> str:
    """``valid``, ``expired`` or ``revoked``."""
    if token.revoked_at is not None:
        return "revoked"
    return "valid" if now < token.ends_at else "expired"


def scope(session: Session, token: LoginToken) -> frozenset[UUID] | None:
    """The projects that a token reaches; None: all."""
    found = _projects(session, token)
    return None if found is None else frozenset(found)


def _issue(
    session: Session, name: str, role: Role | str, projects: Collection[UUID] | None, lifetime: timedelta
) -> IssuedToken:
    if not (name.strip() and len(name) <= 255 and name.isprintable()):
        raise _unfit("the name", name, "1 to 255 printable characters", "choose a name that people know")
    if role not in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
        raise _unfit("the role", role, "viewer, operator or admin", "--role viewer")
    if not timedelta(0) < lifetime <= LONGEST:
        raise _unfit("the lifetime in days", lifetime.days, f"1 to {LONGEST.days}", f"--days {LIFETIME.days}")
    if projects is not None and role == Role.ADMIN:
        raise _unfit("the projects", "some", "all of them for an admin, who changes the hub itself", "--role operator")
    for project_id in projects or ():
        if session.get(Project, project_id) is None:
            raise FlipError("E1002", kind="project", name=project_id, known="", suggestion="flip-fl hub project list")
    token_id = secrets.token_hex(6)
    secret = f"flip_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    now = utc_now()
    token = LoginToken(
        id=token_id,
        name=name,
        role=str(role),
        all_projects=projects is None,
        hash=digest(secret),
        created_at=now,
        ends_at=now + lifetime,
    )
    session.add(token)
    session.flush()
    for project_id in sorted(set(projects or ())):
        session.add(LoginTokenProject(token_id=token_id, project_id=project_id))
    session.flush()
    info = _info(session, token, now)
    scoped = None if info.projects is None else list(info.projects)
    audit.record(session, "token.issued", token_id, name=name, role=str(role), projects=scoped)
    return IssuedToken(info, secret)


def _find(session: Session, token_id: str) -> LoginToken:
    token = session.exec(select(LoginToken).where(col(LoginToken.id) == token_id).with_for_update()).first()
    if token is None:
        session.rollback()
        raise FlipError("E1002", kind="token", name=token_id, known="", suggestion="flip-fl hub token list")
    return token


def _projects(session: Session, token: LoginToken) -> list[UUID] | None:
    if token.all_projects:
        return None
    rows = select(LoginTokenProject.project_id).where(col(LoginTokenProject.token_id) == token.id)
    return list(session.exec(rows))


def _info(session: Session, token: LoginToken, now: datetime) -> TokenInfo:
    names: tuple[str, ...] | None = None
    if not token.all_projects:
        rows = session.exec(
            select(Project.name)
            .join(LoginTokenProject, col(LoginTokenProject.project_id) == col(Project.id))
            .where(col(LoginTokenProject.token_id) == token.id)
        )
        names = tuple(sorted(rows, key=natural_key))
    return TokenInfo(token.id, token.name, Role(token.role), names, token.created_at, token.ends_at, state(token, now))


def _unfit(field: str, value: object, expected: str, suggestion: str) -> FlipError:
    return FlipError("E1005", kind="token", field=field, value=repr(value), expected=expected, suggestion=suggestion)
