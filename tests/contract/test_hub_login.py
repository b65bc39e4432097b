"""People at the hub: the login page, the session's cookie, changes from a page, and what every answer carries."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote

import pytest
import requests
from sqlmodel import select, update

from flip_fl.dashboard.assets import SERVED_POLICY
from flip_fl.hub import sessions, tokens
from flip_fl.hub.access_tables import LoginSession
from flip_fl.hub.headers import SecurityHeaders
from flip_fl.hub.roles import Role
from flip_fl.hub.tables import utc_now
from tests.support.hub import RunningHub

CANARY = "canary-7f3a"


def at(hub: RunningHub, method: str, path: str, **options: Any) -> requests.Response:
    """One request to a page, as a browser that follows nothing."""
    address = hub.base.removesuffix("/api") + path
    return requests.request(method, address, timeout=30, allow_redirects=False, **options)


def viewer(hub: RunningHub) -> tokens.IssuedToken:
    with hub.world.session() as session:
        return tokens.issue(session, "Grace", Role.OPERATOR)


def log_in(hub: RunningHub, token: str, **fields: str) -> requests.Response:
    return at(hub, "POST", "/login", data={"token": token, **fields}, headers={"Sec-Fetch-Site": "same-origin"})


def cookie_of(answer: requests.Response) -> dict[str, str]:
    jar = SimpleCookie(answer.headers["Set-Cookie"])
    return {"Cookie": f"{sessions.COOKIE}={jar[sessions.COOKIE].value}"}


def test_a_person_logs_in_changes_something_and_logs_out(hub: RunningHub) -> None:
    """The whole way of a browser: form, cookie that no script and no other site gets, CSRF on changes, the end."""
    made = viewer(hub)
    form = at(hub, "GET", "/login?next=models/7f3a%3Fround%3D3")
    assert form.status_code == 200
    assert 'value="models/7f3a?round=3"' in form.text
    welcome = log_in(hub, made.secret, next="models/7f3a?round=3")
    assert (welcome.status_code, welcome.headers["Location"]) == (303, "models/7f3a?round=3")
    morsel = SimpleCookie(welcome.headers["Set-Cookie"])[sessions.COOKIE]
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, True, "lax", "/")
    browser = cookie_of(welcome)
    mine = hub.call("GET", "/session", key="", headers=browser).json()
    assert (mine["name"], mine["role"], mine["kind"], mine["projects"]) == ("Grace", "operator", "session", None)
    path, body = f"/model/{hub.world.model_id}", {"name": "edited"}
    assert hub.call("PUT", path, key="", headers=browser, json=body).status_code == 403
    wrong = {**browser, sessions.CSRF_HEADER: "0" * 64}
    assert hub.call("PUT", path, key="", headers=wrong, json=body).status_code == 403
    right = {**browser, sessions.CSRF_HEADER: mine["csrf"]}
    foreign = {**right, "Origin": "https://evil.example"}
    assert hub.call("PUT", path, key="", headers=foreign, json=body).status_code == 403
    assert hub.call("PUT", path, key="", headers=right, json=body).status_code == 200
    assert at(hub, "POST", "/logout", headers=browser).status_code == 403
    assert at(hub, "POST", "/logout", headers=browser, data={"csrf": mine["csrf"]}).status_code == 303
    assert hub.call("GET", "/session", key="", headers=browser).status_code == 401


def test_a_session_ends_with_its_token_and_after_its_time(hub: RunningHub) -> None:
    """Who is let go is out at once, in every browser; and nobody stays logged in for ever."""
    made = viewer(hub)
    first, second = (cookie_of(log_in(hub, made.secret)) for _ in range(2))
    with hub.world.session() as session:
        hashed = tokens.digest(first["Cookie"].partition("=")[2])
        row = session.exec(select(LoginSession).where(LoginSession.hash == hashed)).one()
        assert timedelta(hours=11) < row.ends_at - utc_now() <= sessions.LIFETIME
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(LoginSession).where(LoginSession.hash == hashed).values(ends_at=past))  # type: ignore[arg-type]
        session.commit()
    states = [hub.call("GET", "/session", key="", headers=cookie).status_code for cookie in (first, second)]
    assert states == [401, 200]
    with hub.world.session() as session:
        tokens.revoke(session, made.info.id)
    assert hub.call("GET", "/session", key="", headers=second).status_code == 401
    refused = log_in(hub, made.secret)
    assert (refused.status_code, "This token is revoked." in refused.text) == (401, True)


@pytest.mark.parametrize(
    "back", ["//evil.example", "https://evil.example", "/\\evil.example", "../../x", "javascript:alert(1)", "a\r\nX: y"]
)
def test_the_way_back_leads_nowhere_else(back: str, hub: RunningHub) -> None:
    """A link to the login page cannot send people, just logged in, to somebody else's."""
    assert log_in(hub, viewer(hub).secret, next=back).headers["Location"] == "./"
    form = at(hub, "GET", "/login", params={"next": back}).text
    assert 'name="next" type="hidden" value=""' in form


def test_a_login_from_another_site_is_refused(hub: RunningHub) -> None:
    """Nobody is logged in under another's name by a page that posts a form."""
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}, {"Origin": "null"}):
        answer = at(hub, "POST", "/login", data={"token": viewer(hub).secret}, headers=headers)
        assert answer.status_code == 403
        assert "Set-Cookie" not in answer.headers


def test_a_page_sends_a_stranger_to_the_login_and_back(hub: RunningHub) -> None:
    """Whoever follows a link logs in and is where it led, below a proxy's prefix, too: the address is relative."""
    link = f"models/{hub.world.model_id}?round=3"
    sent = at(hub, "GET", f"/{link}")
    assert sent.status_code == 303
    assert sent.headers["Location"] == "../login?next=" + quote(link, safe="")
    login = at(hub, "GET", "/login", params={"next": link})
    assert f'value="{link}"' in login.text
    back = log_in(hub, hub.world.token, next=link)
    assert back.headers["Location"] == link
    page = at(hub, "GET", f"/{link}", headers=cookie_of(back))
    assert (page.status_code, "<title>lesions</title>" in page.text) == (200, True)


def test_every_answer_carries_the_headers_that_browsers_keep_to(hub: RunningHub) -> None:
    """Pages, JSON, refusals and unknown paths alike: no script but ours, no frame, no guessing, nothing kept."""
    for path in ("/login", "/api/models", "/nothing", "/api/health", "/trusts"):
        headers = at(hub, "GET", path).headers
        assert headers["Content-Security-Policy"] == SERVED_POLICY
        assert "unsafe-inline" not in headers["Content-Security-Policy"]
        assert (headers["X-Content-Type-Options"], headers["X-Frame-Options"]) == ("nosniff", "DENY")
        assert headers["Cache-Control"] == "no-store"
    page = at(hub, "GET", "/login").text
    assert "<script" not in page
    assert "style=" not in page


@pytest.mark.parametrize(("scheme", "expected"), [("https", b"max-age=31536000"), ("http", None)])
def test_a_hub_behind_tls_is_never_asked_without_it_again(scheme: str, expected: bytes | None) -> None:
    """Browsers are told to stay with HTTPS where they came by it; a hub on loopback stays reachable without."""
    sent: list[Any] = []

    async def bare(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def keep(message: Any) -> None:
        sent.append(message)

    asyncio.run(SecurityHeaders(bare)({"type": "http", "scheme": scheme}, keep, keep))
    assert dict(sent[0]["headers"]).get(b"strict-transport-security") == expected


def test_no_credential_is_in_a_log_or_an_error(
    hub: RunningHub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, tokens, cookies and bodies are in no answer and no log line, not even of a fault that nobody foresaw."""
    caplog.set_level(logging.DEBUG)
    answers = [
        hub.call("GET", "/models", key=CANARY),
        hub.model("POST", "/logs", key=CANARY, json={"log": CANARY}),
        hub.call("GET", "/models", key="", headers={"Cookie": f"{sessions.COOKIE}={CANARY}"}),
        log_in(hub, CANARY),
        hub.call("POST", "/projects", json={"name": [CANARY]}),
    ]

    def broken(*_args: Any, **_options: Any) -> Any:
        raise RuntimeError(f"{CANARY} {hub.world.token}")

    monkeypatch.setattr("flip_fl.hub.admin.list_projects", broken)
    answers.append(hub.call("GET", "/projects"))
    assert (answers[-1].status_code, answers[-1].json()) == (500, {"detail": "Internal error."})
    told = "".join(answer.text for answer in answers) + caplog.text
    for secret in (CANARY, hub.world.token, hub.key):
        assert secret not in told
    assert "GET /api/projects: RuntimeError at " in caplog.text
    assert "wrong service key from 127.0.0.1" in caplog.text
