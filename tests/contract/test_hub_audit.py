"""Who did what: every change has its row, in its transaction, and no row is ever changed."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from flip_fl.errors import FlipError
from flip_fl.hub import admin, audit, tokens
from flip_fl.hub.access_tables import HubAudit
from flip_fl.hub.roles import Role
from tests.support.hub import RunningHub


def audited(hub: RunningHub, **wanted: Any) -> list[dict[str, Any]]:
    response = hub.call("GET", "/audit", params=wanted)
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()
    return rows


def test_every_change_through_the_api_says_who_made_it(hub: RunningHub) -> None:
    """An auditor reads afterwards who made, joined, edited, gave and took what; asking again adds no row."""
    start = audited(hub)[0]["id"]
    trust = hub.call("POST", "/trusts", json={"name": "Barts", "code": "BH"}).json()["id"]
    hub.call("POST", "/trusts", json={"name": "Barts", "code": "BH"})
    assert hub.call("POST", "/trusts", json={"name": "Barts", "code": "other"}).status_code == 409
    hub.call("POST", "/projects", json={"name": "Lung"})
    model = hub.call("POST", "/models", json={"project": "Lung", "name": "nodules"}).json()["id"]
    hub.call("POST", f"/model/{model}/trusts", json={"trusts": ["Barts"]})
    hub.call("PUT", f"/model/{model}", json={"name": "nodules 2"})
    slot = hub.call("POST", f"/trusts/{trust}/slot").json()["slot"]
    assert slot == "Trust_4"
    hub.call("POST", "/slots", json={"count": 5})
    hub.call("DELETE", f"/slots/{slot}")
    hub.call("DELETE", f"/model/{model}")
    issued = hub.call("POST", "/tokens", json={"name": "Grace", "projects": ["Lung"]}).json()
    successor = hub.call("POST", f"/tokens/{issued['id']}/rotate", json={}).json()
    hub.call("DELETE", f"/tokens/{successor['id']}")
    made = hub.call("POST", "/keys", json={}).json()
    hub.call("DELETE", f"/keys/{made['fingerprint']}")
    rows = [row for row in reversed(audited(hub)) if row["id"] > start]
    assert [row["action"] for row in rows] == [
        *("trust.created", "project.created", "model.created", "model.joined", "model.edited"),
        *("slot.assigned", "slots.seeded", "slot.released", "model.deleted"),
        *("token.issued", "token.issued", "token.rotated", "token.revoked", "key.rotated", "key.revoked"),
    ]
    assert {(row["actor"], row["actorKind"]) for row in rows} == {("Ada", "token")}
    assert [row["subject"] for row in audited(hub, subject=model)] == [model] * 4
    assert [row["id"] for row in audited(hub, before=rows[1]["id"], limit=1)] == [rows[0]["id"]]
    whole = str(rows)
    assert issued["token"] not in whole
    assert made["key"] not in whole


@pytest.mark.parametrize("table", ["hub_audit", "models_audit", "fl_status_history"])
@pytest.mark.parametrize("way", ["UPDATE", "DELETE", "TRUNCATE", "REPLACE"])
def test_the_database_itself_refuses_to_change_a_row(table: str, way: str, hub: RunningHub) -> None:
    """Whatever part of the application is taken over: what was recorded stays as it was recorded."""
    postgresql = not hub.world.url.startswith("sqlite")
    if (way == "TRUNCATE") != postgresql and way in ("TRUNCATE", "REPLACE"):
        return  # a statement of the other database
    hub.model("PUT", "", json={"name": "edited"})
    statement = {
        "UPDATE": f"UPDATE {table} SET id = id + 1000",
        "DELETE": f"DELETE FROM {table}",
        "TRUNCATE": f"TRUNCATE {table}",
        "REPLACE": f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}",
    }[way]
    with hub.world.session() as session:
        before = session.execute(text(f"SELECT * FROM {table} ORDER BY id")).all()
        assert before
        with pytest.raises(DBAPIError, match="append-only"):
            session.execute(text(statement))
        session.rollback()
        assert session.execute(text(f"SELECT * FROM {table} ORDER BY id")).all() == before


def test_a_reason_that_comes_late_is_still_taken_once(hub: RunningHub) -> None:
    """The history takes what was not known before, and keeps it: the second reason changes nothing."""
    hub.model("PUT", "/status/ERROR")
    with hub.world.session() as session:
        fill = text("UPDATE fl_status_history SET reason = :reason WHERE status = 'ERROR'")
        session.execute(fill, {"reason": "the first"})
        session.commit()
        with pytest.raises(DBAPIError, match="append-only"):
            session.execute(fill, {"reason": "the second"})


def test_a_change_that_fails_leaves_no_row(hub: RunningHub) -> None:
    """Change and row are one transaction: what was undone is not said to have been done."""
    with hub.world.session() as session:
        count = len(hub.world.rows(HubAudit))
        audit.record(session, "project.created", "undone")
        session.rollback()
        with pytest.raises(FlipError):
            tokens.issue(session, "Grace", Role.ADMIN, [hub.world.project_id])
        session.rollback()
        with pytest.raises(FlipError):
            admin.create_model(session, "Stroke", "other", model_id=hub.world.model_id)
    assert len(hub.world.rows(HubAudit)) == count


def test_a_rotated_token_counts_until_the_overlap_ends(hub: RunningHub) -> None:
    """A program's token is exchanged without a moment in which none counts, and the old one ends by itself."""
    old = hub.call("POST", "/tokens", json={"name": "pipeline", "projects": ["Stroke"]}).json()
    new = hub.call("POST", f"/tokens/{old['id']}/rotate", json={"overlapS": 3600}).json()
    assert (new["role"], new["projects"]) == ("viewer", ["Stroke"])
    assert [hub.call("GET", "/models", key=made["token"]).status_code for made in (old, new)] == [200, 200]
    newest = hub.call("POST", f"/tokens/{new['id']}/rotate", json={"overlapS": 0}).json()
    answers = [hub.call("GET", "/models", key=made["token"]) for made in (old, new, newest)]
    assert [answer.status_code for answer in answers] == [200, 401, 200]
    assert answers[1].json() == {"detail": "This token is expired."}
    assert hub.call("POST", f"/tokens/{new['id']}/rotate", json={}).status_code == 409
    listed = hub.call("GET", "/tokens").text
    for made in (old, new, newest):
        assert made["token"] not in listed


def test_a_service_key_is_rotated_while_servers_report(hub: RunningHub) -> None:
    """No report is refused in an exchange of keys: the old key counts through the overlap, then it does not."""
    made = hub.call("POST", "/keys", json={"overlapS": 3600}).json()
    codes = [hub.model("POST", "/logs", key=key, json={"log": "x"}).status_code for key in (hub.key, made["key"])]
    assert codes == [200, 200]
    listed = hub.call("GET", "/keys").json()
    assert [(key["source"], key["valid"]) for key in listed] == [("settings", True), ("database", True)]
    ended = hub.call("DELETE", f"/keys/{listed[0]['fingerprint']}").json()
    assert (ended["valid"], ended["source"]) == (False, "settings")
    codes = [hub.model("POST", "/logs", key=key, json={"log": "x"}).status_code for key in (hub.key, made["key"])]
    assert codes == [401, 200]
