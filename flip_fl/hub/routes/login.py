"""Logging in and out with a browser, and who one is."""

from __future__ import annotations

import re
from html import escape
from importlib.resources import files
from urllib.parse import parse_qs

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field
from sqlmodel import col, select
from starlette.concurrency import run_in_threadpool

from flip_fl.hub import access, database, sessions, tokens
from flip_fl.hub.access import Viewer
from flip_fl.hub.roles import Role
from flip_fl.hub.routes.dependencies import Reading
from flip_fl.hub.tables import Project, utc_now
from flip_fl.values import natural_key

pages = APIRouter(include_in_schema=False)
router = APIRouter(tags=["login"])

_FORM_BYTES = 8192
_WRONG = "This token is not valid."
_OVER = "This token is {state}. Whoever looks after the hub makes a new one."
_ELSEWHERE = "The login came from another site. Try again from here."
# Below the hub itself and nowhere else: relative, without a scheme, and not up the tree.
_WAY_BACK = re.compile(r"(?!/)(?!.*(?:\.\.|//|\\))[\w\-./~%?&=+,@!*'()]{0,2000}", re.ASCII)


class SessionOut(BaseModel):
    """``GET /session``. ``projects`` null: all of them. ``csrf``: the header X-CSRF-Token of a page's changes."""

    name: str = Field(examples=["Ada Lovelace"])
    role: Role = Field(examples=["viewer"])
    kind: str = Field(examples=["session"])
    projects: list[str] | None = Field(examples=[["Stroke"]])
    csrf: str | None = Field(examples=["9f2c6b5e"])


@pages.get("/login")
def login_page(next: str = "") -> HTMLResponse:
    """The form. Open to everybody."""
    return _form(next)


@pages.get("/login.css")
def login_style() -> Response:
    """How the form looks."""
    return Response(_read("login.css"), media_type="text/css", headers={"Cache-Control": "max-age=3600"})


@pages.post("/login")
async def log_in(request: Request) -> Response:
    """Begin a session with a token, and go back to where one came from."""
    if not access.same_origin(request):
        return _form("", _ELSEWHERE, 403)
    body = await request.body()
    fields = parse_qs(body[:_FORM_BYTES].decode("utf-8", "replace"))
    secret, back = (fields.get(name, [""])[0].strip() for name in ("token", "next"))
    return await run_in_threadpool(_begin, request, secret, back)


@pages.post("/logout")
async def log_out(request: Request) -> Response:
    """End the session; the form carries its CSRF token as ``csrf``. 403 without it."""
    cookie = request.cookies.get(sessions.COOKIE, "")
    fields = parse_qs((await request.body())[:_FORM_BYTES].decode("utf-8", "replace"))
    presented = fields.get("csrf", [request.headers.get(sessions.CSRF_HEADER, "")])[0]
    if cookie:
        if not (sessions.csrf_matches(cookie, presented) and access.same_origin(request)):
            raise HTTPException(403, access.DETAIL_CSRF)
        await run_in_threadpool(_end, request, cookie)
    answer = RedirectResponse("login", 303)
    answer.delete_cookie(sessions.COOKIE, secure=True, httponly=True, samesite="lax")
    return answer


@router.get("/session")
def read_session(who: Viewer, request: Request, session: Reading) -> SessionOut:
    """Who one is to the hub, and what one reaches."""
    names = None
    if who.projects is not None:
        found = session.exec(select(Project.name).where(col(Project.id).in_(who.projects)))
        names = sorted(found, key=natural_key)
    cookie = request.cookies.get(sessions.COOKIE, "")
    csrf = sessions.csrf_token(cookie) if who.kind == "session" else None
    return SessionOut(name=who.name, role=who.role, kind=who.kind, projects=names, csrf=csrf)


def _begin(request: Request, secret: str, back: str) -> Response:
    try:
        access.heard(request, "login", secret)
    except HTTPException as error:
        answer = _form(back, str(error.detail), error.status_code)
        answer.headers.update(error.headers or {})
        return answer
    with database.writing(request.app.state.engine) as session:
        token = tokens.presented(session, secret)
        if token is None:
            if secret:
                access.wrong(request, "login")
            return _form(back, _WRONG, 401)
        state = tokens.state(token, utc_now())
        if state != "valid":
            return _form(back, _OVER.format(state=state), 401)
        value, lifetime = sessions.begin(session, token)
    access.throttle_of(request).passed(access.address_of(request), "login", secret)
    welcome = RedirectResponse(back if _WAY_BACK.fullmatch(back) and back else "./", 303)
    seconds = int(lifetime.total_seconds())
    welcome.set_cookie(sessions.COOKIE, value, max_age=seconds, secure=True, httponly=True, samesite="lax")
    return welcome


def _end(request: Request, cookie: str) -> None:
    with database.writing(request.app.state.engine) as session:
        sessions.end(session, cookie)


def _form(back: str, notice: str = "", status_code: int = 200) -> HTMLResponse:
    shown = f'<p role="alert">{escape(notice)}</p>' if notice else ""
    kept = back if _WAY_BACK.fullmatch(back) else ""
    page = _read("login.html").replace("{{notice}}", shown).replace("{{next}}", escape(kept))
    return HTMLResponse(page, status_code)


def _read(name: str) -> str:
    return (files("flip_fl.hub") / "pages" / name).read_text(encoding="utf-8")
