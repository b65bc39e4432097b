"""Every route of the hub with what opens it, and every credential that somebody may come with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from sqlmodel import update

from flip_fl.hub import admin, sessions, tokens
from flip_fl.hub.access_tables import LoginToken
from flip_fl.hub.roles import Role
from flip_fl.hub.tables import utc_now
from tests.support.hub import KEY_HEADER, RunningHub

OPEN, SERVICE, VIEWER, OPERATOR, HUB_OPERATOR, ADMIN, PAGE = (
    "open",
    "service",
    "viewer",
    "operator",
    "operator of all projects",
    "admin",
    "page",
)

# What opens each route. One that is missing here fails the test, and so does one that is no more.
ROUTES: Mapping[tuple[str, str], str] = {
    ("GET", "/health"): OPEN,
    ("GET", "/api/health"): OPEN,
    ("GET", "/login"): OPEN,
    ("POST", "/login"): OPEN,
    ("GET", "/login.css"): OPEN,
    ("GET", "/favicon.ico"): OPEN,
    ("GET", "/assets/{name}"): OPEN,
    ("GET", "/"): PAGE,
    ("GET", "/models/{model_id}"): PAGE,
    ("GET", "/trusts"): PAGE,
    ("GET", "/compare"): PAGE,
    ("GET", "/ready"): VIEWER,
    ("GET", "/metrics"): OPERATOR,
    ("PUT", "/api/model/{model_id}/status/{status}"): SERVICE,
    ("POST", "/api/model/{model_id}/metrics"): SERVICE,
    ("POST", "/api/model/{model_id}/logs"): SERVICE,
    ("POST", "/api/model/{model_id}/events"): SERVICE,
    ("GET", "/api/model/{model_id}/metrics"): VIEWER,
    ("GET", "/api/model/{model_id}/logs"): VIEWER,
    ("GET", "/api/model/{model_id}/status"): VIEWER,
    ("GET", "/api/model/{model_id}/story"): VIEWER,
    ("GET", "/api/model/{model_id}/plots"): VIEWER,
    ("GET", "/api/model/{model_id}/plot"): VIEWER,
    ("GET", "/api/model/{model_id}/metrics.csv"): VIEWER,
    ("GET", "/api/model/{model_id}/stream"): VIEWER,
    ("GET", "/api/model/{model_id}/changes"): VIEWER,
    ("GET", "/api/model/{model_id}/feed"): VIEWER,
    ("GET", "/api/stream"): VIEWER,
    ("GET", "/api/runs"): VIEWER,
    ("GET", "/api/runs/stream"): VIEWER,
    ("GET", "/api/sites"): VIEWER,
    ("GET", "/api/projects"): VIEWER,
    ("GET", "/api/trusts"): VIEWER,
    ("GET", "/api/models"): VIEWER,
    ("GET", "/api/session"): VIEWER,
    ("GET", "/api/openapi.json"): VIEWER,
    ("PUT", "/api/model/{model_id}"): OPERATOR,
    ("DELETE", "/api/model/{model_id}"): OPERATOR,
    ("POST", "/api/model/{model_id}/trusts"): OPERATOR,
    ("POST", "/api/models"): OPERATOR,
    ("GET", "/api/slots"): HUB_OPERATOR,
    ("GET", "/api/nets/{net}/revocations"): HUB_OPERATOR,
    ("POST", "/api/projects"): ADMIN,
    ("POST", "/api/trusts"): ADMIN,
    ("POST", "/api/slots"): ADMIN,
    ("POST", "/api/trusts/{trust_id}/slot"): ADMIN,
    ("DELETE", "/api/slots/{slot}"): ADMIN,
    ("GET", "/api/tokens"): ADMIN,
    ("POST", "/api/tokens"): ADMIN,
    ("POST", "/api/tokens/{token_id}/rotate"): ADMIN,
    ("DELETE", "/api/tokens/{token_id}"): ADMIN,
    ("GET", "/api/keys"): ADMIN,
    ("POST", "/api/keys"): ADMIN,
    ("DELETE", "/api/keys/{fingerprint}"): ADMIN,
    ("GET", "/api/audit"): ADMIN,
    # The last: whoever can, does.
    ("POST", "/logout"): OPEN,
}


@dataclass(frozen=True)
class Credential:
    """What is presented, and as whom the hub must take it: None for nobody."""

    name: str
    headers: Mapping[str, str] = field(default_factory=dict)
    role: Role | None = None
    scoped: bool = False
    changes: bool = True

    def answer(self, method: str, guard: str) -> int | None:
        """The status that must be answered; None: any but a refusal."""
        if guard == OPEN:
            return None
        if guard == SERVICE:
            return None if self.role is Role.SERVICE else 401
        if self.role in (None, Role.SERVICE):
            return 303 if guard == PAGE else 401
        if guard in (VIEWER, PAGE):
            return None if method == "GET" or self.changes else 403
        if method != "GET" and not self.changes:
            return 403
        needed = Role.ADMIN if guard == ADMIN else Role.OPERATOR
        assert self.role is not None
        if not self.role.reaches(needed) or (guard == HUB_OPERATOR and self.scoped):
            return 403
        return None


def routes(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every route that the hub answers, pages and those outside the document too."""
    for context in iter_route_contexts(app.routes):
        for method in context.methods or ():
            if method != "HEAD":
                yield method, str(context.path)


def credentials(hub: RunningHub, trust_key: str) -> list[Credential]:
    """Everybody who may come, and nobody."""
    world = hub.world
    with world.session() as session:
        other = admin.create_project(session, "Other").id
        made = {role: tokens.issue(session, f"a {role}", role).secret for role in (Role.VIEWER, Role.OPERATOR)}
        scoped = tokens.issue(session, "one of Stroke", Role.OPERATOR, [world.project_id]).secret
        elsewhere = tokens.issue(session, "one of Other", Role.VIEWER, [other]).secret
        expired, revoked = (tokens.issue(session, "gone", Role.ADMIN) for _ in range(2))
        tokens.revoke(session, revoked.info.id)
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(LoginToken).where(LoginToken.id == expired.info.id).values(ends_at=past))  # type: ignore[arg-type]
        session.commit()
        token = tokens.presented(session, made[Role.OPERATOR])
        assert token is not None
        cookies = [sessions.begin(session, token)[0] for _ in range(3)]
    return [
        Credential("nothing"),
        Credential("an empty key", {KEY_HEADER: ""}),
        Credential("a wrong key", {KEY_HEADER: "wrong"}),
        Credential("the key and one letter more", {KEY_HEADER: hub.key + "x"}),
        Credential("the key without its last letter", {KEY_HEADER: hub.key[:-1]}),
        Credential("the trust's key where the hub's should be", {KEY_HEADER: trust_key}),
        Credential("the trust's key in its own header", {"X-Trust-Internal-Service-Key": trust_key}),
        Credential("the service key as a token", _bearer(hub.key)),
        Credential("a token as the service key", {KEY_HEADER: world.token}),
        Credential("a token as a password", {"Authorization": f"Basic {world.token}"}),
        Credential("a wrong token", _bearer("flip_0123456789ab_" + "x" * 43)),
        Credential("a token with another one's end", _bearer(world.token[:-4] + elsewhere[-4:])),
        Credential("an expired token", _bearer(expired.secret)),
        Credential("a revoked token", _bearer(revoked.secret)),
        Credential("a wrong cookie", {"Cookie": f"{sessions.COOKIE}=wrong"}),
        Credential("the service key", {KEY_HEADER: hub.key}, Role.SERVICE),
        Credential("a viewer", _bearer(made[Role.VIEWER]), Role.VIEWER),
        Credential("a viewer of another project", _bearer(elsewhere), Role.VIEWER, scoped=True),
        Credential("an operator", _bearer(made[Role.OPERATOR]), Role.OPERATOR),
        Credential("an operator of one project", _bearer(scoped), Role.OPERATOR, scoped=True),
        Credential("an admin", _bearer(world.token), Role.ADMIN),
        Credential("an operator's browser", _cookie(cookies[0]), Role.OPERATOR, changes=False),
        Credential("an operator's page", _page(cookies[1], "same-origin"), Role.OPERATOR),
        Credential("another site's page", _page(cookies[2], "cross-site"), Role.OPERATOR, changes=False),
    ]


def _bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def _cookie(value: str) -> dict[str, str]:
    return {"Cookie": f"{sessions.COOKIE}={value}"}


def _page(value: str, site: str) -> dict[str, str]:
    return {**_cookie(value), sessions.CSRF_HEADER: sessions.csrf_token(value), "Sec-Fetch-Site": site}
