"""Who asks: what a route writes to say whom it serves. One place decides it for the API and for the pages.

A route takes one of the aliases below as a parameter (``who: Viewer``) and gets the ``Principal``; 401 without a valid
credential, 403 with one that does not reach so far, 429 after too many wrong ones. What a principal's projects do not
hold is answered as if it were not there.

A program sends ``Authorization: Bearer <token>``; a browser has the cookie of its session, and a change that it makes
carries the CSRF token. The service key opens the FL routes and nothing else.
"""

from __future__ import annotations

import logging
from typing import Annotated
from urllib.parse import quote, urlsplit
from uuid import UUID

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from flip_fl.hub import database, sessions, tokens
from flip_fl.hub.audit import Actor, act_as
from flip_fl.hub.roles import Principal, Role
from flip_fl.hub.security import refusal
from flip_fl.hub.tables import Model, utc_now
from flip_fl.hub.throttle import Throttle
from flip_fl.settings import HubSettings
from flip_fl.wire import DETAIL_MODEL_MISSING

_logger = logging.getLogger(__name__)

DETAIL_NOBODY = "Not authenticated: log in, or send a token (Authorization: Bearer …)."
DETAIL_UNKNOWN = "Invalid token."
DETAIL_OVER = "This token is {state}."
DETAIL_SESSION_OVER = "Not authenticated: the session is over, log in again."
DETAIL_CSRF = "The change does not come from a page of this hub (no valid CSRF token)."
DETAIL_ROLE = "The role {role} may not do this; {needed} may."
DETAIL_SCOPE = "This concerns all projects; the token reaches only some."
DETAIL_TOO_MANY = "Too many wrong keys came from this address. Try again later."

# How the OpenAPI document calls what opens a route, and tells which one does.
SERVICE_KEY, TOKEN, SESSION = "ServiceKey", "Token", "Session"
_ByKey = Annotated[
    object, Security(APIKeyHeader(name="X-Internal-Service-Key", scheme_name=SERVICE_KEY, auto_error=False))
]
_ByToken = Annotated[object, Security(HTTPBearer(scheme_name=TOKEN, auto_error=False))]
_BySession = Annotated[object, Security(APIKeyCookie(name=sessions.COOKIE, scheme_name=SESSION, auto_error=False))]

_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_BEARER = "bearer "


async def service(request: Request, _key: _ByKey) -> Principal:
    """An FL server with the service key. 401 otherwise."""
    settings: HubSettings = request.app.state.settings
    presented = request.headers.get(settings.service_key_header)
    if presented:
        heard(request, "service key", presented)
    hashes = await request.app.state.service_keys.hashes(request.app.state.engine)
    reason = refusal(presented, hashes)
    if reason is not None:
        if presented and hashes is not None:
            wrong(request, "service key")
        raise HTTPException(401, reason)
    throttle_of(request).passed(address_of(request), "service key", str(presented))
    return Principal("service", Role.SERVICE, None, "service")


def viewer(request: Request, _token: _ByToken, _session: _BySession) -> Principal:
    """Whoever may read. 401 otherwise."""
    return _allowed(request, Role.VIEWER)


def operator(request: Request, _token: _ByToken, _session: _BySession) -> Principal:
    """Whoever may change models. 401, or 403 for a viewer."""
    return _allowed(request, Role.OPERATOR)


def hub_operator(request: Request, _token: _ByToken, _session: _BySession) -> Principal:
    """An operator whose token reaches all projects: for what belongs to none. 401, 403."""
    found = _allowed(request, Role.OPERATOR)
    if found.projects is not None:
        raise HTTPException(403, DETAIL_SCOPE)
    return found


def admin(request: Request, _token: _ByToken, _session: _BySession) -> Principal:
    """Whoever may change the hub itself. 401, or 403 for another role."""
    return _allowed(request, Role.ADMIN)


def page_viewer(request: Request) -> Principal:
    """Whoever may read, in a browser: redirected (303) to the login page when nobody is logged in.

    The address is relative (``login?next=models/…``, ``../login?next=…``), so that it is right below any prefix that
    a proxy adds.
    """
    try:
        return _allowed(request, Role.VIEWER)
    except HTTPException as error:
        if error.status_code != 401:
            raise
    raise HTTPException(303, DETAIL_NOBODY, headers={"Location": login_address(request)})


async def still_reads(request: Request) -> bool:
    """Whether who began to read may go on: a token may have been revoked, a session ended, since.

    Not where the database cannot tell: who comes back then is answered 503, and asks again.
    """
    try:
        await run_in_threadpool(_allowed, request, Role.VIEWER)
    except (HTTPException, SQLAlchemyError):
        return False
    return True


Service = Annotated[Principal, Depends(service)]
Viewer = Annotated[Principal, Depends(viewer)]
Operator = Annotated[Principal, Depends(operator)]
HubOperator = Annotated[Principal, Depends(hub_operator)]
Admin = Annotated[Principal, Depends(admin)]
PageViewer = Annotated[Principal, Depends(page_viewer)]


def visible_model(model_id: UUID, principal: Principal, session: Session) -> None:
    """404 for a model that is not there, or not in the principal's projects: the same words for both."""
    project_id = session.exec(select(Model.project_id).where(col(Model.id) == model_id)).first()
    if project_id is None or not principal.sees(project_id):
        raise HTTPException(404, DETAIL_MODEL_MISSING.format(model_id))


def acting(session: Session, principal: Principal) -> Session:
    """``session``, in which what is changed from now on is recorded as the principal's doing."""
    act_as(session, Actor(principal.name, principal.kind))
    return session


def login_address(request: Request) -> str:
    """The login page as the asking page must name it, with the way back."""
    path = request.url.path.removeprefix(request.scope.get("root_path", "")).lstrip("/")
    back = f"{path}?{request.url.query}" if request.url.query else path
    return "../" * path.count("/") + "login" + (f"?next={quote(back, safe='')}" if back else "")


def same_origin(request: Request) -> bool:
    """False for a request that a browser says another site has made."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    # An older browser. A proxy that changes Host must keep it for these.
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


def heard(request: Request, kind: str, credential: str) -> None:
    """429 while the address has presented too many wrong credentials of this kind."""
    wait_s = throttle_of(request).wait_s(address_of(request), kind, credential)
    if wait_s is not None:
        raise HTTPException(429, DETAIL_TOO_MANY, headers={"Retry-After": str(wait_s)})


def wrong(request: Request, kind: str) -> None:
    """Count a wrong credential, and say so in the log: from where and what kind, never what it was."""
    address = address_of(request)
    count = throttle_of(request).failed(address, kind)
    _logger.warning("wrong %s from %s (%d within a minute)", kind, address, count)


def address_of(request: Request) -> str:
    """Whom wrong keys are counted against."""
    return request.client.host if request.client else "unknown"


def throttle_of(request: Request) -> Throttle:
    """The app's own count of wrong keys."""
    throttle: Throttle = request.app.state.throttle
    return throttle


def _allowed(request: Request, needed: Role) -> Principal:
    found = _authenticated(request)
    if not found.role.reaches(needed):
        raise HTTPException(403, DETAIL_ROLE.format(role=found.role, needed=_who_may(needed)))
    return found


def _who_may(needed: Role) -> str:
    return "an operator or an admin" if needed is Role.OPERATOR else f"an {needed}"


def _authenticated(request: Request) -> Principal:
    authorization = request.headers.get("authorization", "")
    if authorization[: len(_BEARER)].lower() == _BEARER:
        return _by_token(request, authorization[len(_BEARER) :].strip())
    cookie = request.cookies.get(sessions.COOKIE)
    if cookie:
        return _by_session(request, cookie)
    raise HTTPException(401, DETAIL_NOBODY, headers=_CHALLENGE)


def _by_token(request: Request, secret: str) -> Principal:
    heard(request, "token", secret)
    with database.reading(request.app.state.engine) as session:
        token = tokens.presented(session, secret)
        if token is None:
            wrong(request, "token")
            raise HTTPException(401, DETAIL_UNKNOWN, headers=_CHALLENGE)
        state = tokens.state(token, utc_now())
        if state != "valid":
            raise HTTPException(401, DETAIL_OVER.format(state=state), headers=_CHALLENGE)
        throttle_of(request).passed(address_of(request), "token", secret)
        return Principal(token.name, Role(token.role), tokens.scope(session, token), "token")


def _by_session(request: Request, cookie: str) -> Principal:
    with database.reading(request.app.state.engine) as session:
        token = sessions.find(session, cookie)
        if token is None or tokens.state(token, utc_now()) != "valid":
            raise HTTPException(401, DETAIL_SESSION_OVER, headers=_CHALLENGE)
        changing = request.method not in _READING
        carried = sessions.csrf_matches(cookie, request.headers.get(sessions.CSRF_HEADER))
        if changing and not (carried and same_origin(request)):
            raise HTTPException(403, DETAIL_CSRF)
        return Principal(token.name, Role(token.role), tokens.scope(session, token), "session")
