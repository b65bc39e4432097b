"""Browsers that logged in: a random cookie, kept as a hash, and a second secret that a change must carry."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from datetime import timedelta

from sqlmodel import Session, col, delete, select

from flip_fl.hub import audit
from flip_fl.hub.access_tables import LoginSession, LoginToken
from flip_fl.hub.tables import utc_now
from flip_fl.hub.tokens import digest

COOKIE = "flip_session"
CSRF_HEADER = "X-CSRF-Token"
LIFETIME = timedelta(hours=12)


def begin(session: Session, token: LoginToken) -> tuple[str, timedelta]:
    """Log in with a valid token, and commit: the cookie's value and how long it is good for."""
    now = utc_now()
    # Nobody else tidies up, and a login is rare.
    session.execute(delete(LoginSession).where(col(LoginSession.ends_at) < now))
    value = secrets.token_urlsafe(32)
    ends_at = min(now + LIFETIME, token.ends_at)
    session.add(LoginSession(hash=digest(value), token_id=token.id, created_at=now, ends_at=ends_at))
    audit.act_as(session, audit.Actor(token.name, "session"))
    audit.record(session, "session.opened", token.id, name=token.name)
    session.commit()
    return value, ends_at - now


def find(session: Session, cookie: str) -> LoginToken | None:
    """The token that the browser with this cookie logged in with; None when the login is over."""
    row = session.exec(
        select(LoginToken)
        .join(LoginSession, col(LoginSession.token_id) == col(LoginToken.id))
        .where(col(LoginSession.hash) == digest(cookie), col(LoginSession.ends_at) > utc_now())
    ).first()
    return row if isinstance(row, LoginToken) else None


def end(session: Session, cookie: str) -> None:
    """Log out, and commit."""
    token = find(session, cookie)
    if token is not None:
        session.execute(delete(LoginSession).where(col(LoginSession.hash) == digest(cookie)))
        audit.act_as(session, audit.Actor(token.name, "session"))
        audit.record(session, "session.closed", token.id, name=token.name)
    session.commit()


def csrf_token(cookie: str) -> str:
    """What a change made by the browser with this cookie must carry: another site can neither read nor guess it."""
    return hmac.new(cookie.encode("latin-1", "replace"), b"flip-fl csrf", hashlib.sha256).hexdigest()


def csrf_matches(cookie: str, presented: str | None) -> bool:
    """Whether ``presented`` is the cookie's own; compared in constant time."""
    return hmac.compare_digest(csrf_token(cookie).encode(), (presented or "").encode("utf-8", "replace"))
