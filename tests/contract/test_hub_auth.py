"""Who gets in: every route and every credential, the service key word for word, and the limit on wrong ones."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flip_fl.hub import access, admin, security
from flip_fl.hub.app import create_app
from flip_fl.hub.throttle import Throttle
from flip_fl.settings import HubSettings
from tests.support.hub import KEY_HEADER, RunningHub, hub_server, running_hub, world
from tests.support.hub_access import ROUTES, credentials, routes

MISSING = "Not authenticated: internal service key is missing."
NOT_CONFIGURED = "Internal service auth not configured."
INVALID = "Invalid internal service key."
# Nothing has these names: whoever gets in finds nothing, and changes nothing.
_NAMES = {
    "model_id": "9d3a1a52-3e0c-4f9e-8d9e-0a58c5b5b5b5",
    "trust_id": "9d3a1a52-3e0c-4f9e-8d9e-0a58c5b5b5b5",
    "token_id": "000000000000",
    "fingerprint": "000000000000",
    "status": "RUNNING",
    "slot": "Trust_99",
    "net": "none",
    "name": "none",
}


def test_every_route_by_every_credential(hub: RunningHub) -> None:
    """The whole boundary in one table: who is nobody gets 401 everywhere, and each role just what is its own."""
    settings = HubSettings(database_url=hub.world.url, _env_file=None)
    assert set(routes(create_app(settings))) == set(ROUTES)
    wrong = []
    with requests.Session() as client:
        for credential in credentials(hub, trust_key="the-key-of-a-trust"):
            for (method, path), guard in ROUTES.items():
                address = hub.base.removesuffix("/api") + path.format(**_NAMES)
                json = None if method == "GET" or guard == "open" else ["no body that a route takes"]
                client.cookies.clear()
                sent = {"headers": dict(credential.headers), "json": json, "allow_redirects": False}
                # The answer's head is enough: a stream has no end.
                with client.request(method, address, timeout=30, stream=True, **sent) as answer:
                    status = answer.status_code
                expected = credential.answer(method, guard)
                refused = status in (401, 403, 429) and guard != "open"
                if status >= 500 or (status != expected if expected else refused):
                    wrong.append(f"{credential.name}: {method} {path} is {status}, not {expected or 'in'}")
    assert not wrong, "\n".join(wrong)


def test_a_model_of_another_project_is_as_one_that_is_not_there(hub: RunningHub) -> None:
    """Nobody learns, not even by an answer's words, what another project has; lists hold only what is theirs."""
    unknown = "9d3a1a52-3e0c-4f9e-8d9e-0a58c5b5b5b5"
    for credential in credentials(hub, trust_key="x"):
        if not credential.scoped or "another" not in credential.name:
            continue
        there, nowhere = (
            [hub.call("GET", f"/model/{model}/{last}", key="", headers=credential.headers) for last in _READ]
            for model in (hub.world.model_id, unknown)
        )
        for one, other in zip(there, nowhere, strict=True):
            assert one.status_code == other.status_code == 404
            assert one.text.replace(str(hub.world.model_id), "") == other.text.replace(unknown, "")
        for path, names in (("/models", []), ("/trusts", []), ("/projects", ["Other"]), ("/models?trust=Outsider", [])):
            listed = hub.call("GET", path, key="", headers=credential.headers).json()
            assert [row["name"] for row in listed] == names
        assert hub.call("GET", "/models?project=Stroke", key="", headers=credential.headers).status_code == 404
        break
    else:
        pytest.fail("no credential of another project")


_READ = ("story", "metrics", "logs", "status")


def test_an_operator_of_one_project_changes_nothing_of_another(hub: RunningHub) -> None:
    """Scope holds for changes, too: a model is neither made in nor changed in a project that is out of reach."""
    (scoped,) = (c for c in credentials(hub, "x") if c.name == "an operator of one project")
    with hub.world.session() as session:
        foreign = admin.create_model(session, "Other", "theirs").id
    for method, path, body in (
        ("PUT", f"/model/{foreign}", {"name": "mine"}),
        ("DELETE", f"/model/{foreign}", None),
        ("POST", f"/model/{foreign}/trusts", {"trusts": []}),
        ("POST", "/models", {"project": "Other", "name": "mine"}),
    ):
        assert hub.call(method, path, key="", headers=scoped.headers, json=body).status_code == 404
    own = hub.call("POST", "/models", key="", headers=scoped.headers, json={"project": "Stroke", "name": "mine"})
    assert (own.status_code, own.json()["status"]) == (200, "PENDING")


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_health_is_open_and_names_the_service(hub: RunningHub, path: str) -> None:
    """A doctor can tell a FLIP hub from anything else without a key, and learns nothing more."""
    response = requests.get(hub.base.removesuffix("/api") + path, timeout=10)
    assert response.status_code == 200
    assert set(response.json()) == {"service", "status", "version"}
    assert response.json()["service"] == "flip-hub"


def test_the_service_key_is_refused_word_for_word(hub: RunningHub) -> None:
    """FL servers of every version read these texts; the key is good for reporting and for nothing else."""
    for key, detail in (("", MISSING), ("wrong", INVALID), (hub.key + "x", INVALID)):
        response = hub.model("POST", "/logs", key=key, json={"log": "x"})
        assert (response.status_code, response.json()) == (401, {"detail": detail})
    response = requests.get(f"{hub.base}/model/{hub.world.model_id}/story", headers={KEY_HEADER: hub.key}, timeout=10)
    assert (response.status_code, response.json()) == (401, {"detail": access.DETAIL_NOBODY})
    assert response.headers["WWW-Authenticate"] == "Bearer"


def test_malformed_json_is_422_even_without_a_key(hub: RunningHub) -> None:
    """The order of the contract: what is not JSON is refused before anybody is asked who they are."""
    for key in ("", None):
        response = hub.model(
            "POST", "/metrics", key=key, data='{"label": canary', headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 422
        assert "canary" not in response.text


def test_a_schema_error_without_key_is_401(hub: RunningHub) -> None:
    """Nobody learns the schema without a key."""
    assert hub.model("POST", "/metrics", key="", json={"label": 1}).status_code == 401
    assert hub.model("POST", "/metrics", json={"label": 1}).status_code == 422
    assert hub.call("PUT", "/model/nonsense/status/x", key="").status_code == 401


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    url = f"sqlite:///{tmp_path_factory.mktemp('closed') / 'hub.sqlite'}"
    admin.init_database(url)
    with hub_server(url, key_hash="") as server:
        yield server.base


def test_an_unset_key_fails_closed(closed: str) -> None:
    """A hub without a configured hash lets nobody in, not even with the hash of nothing."""
    path = f"{closed}/model/9d3a1a52-3e0c-4f9e-8d9e-0a58c5b5b5b5/logs"
    for key in ("x", "None", hashlib.sha256(b"").hexdigest()):
        response = requests.post(path, headers={KEY_HEADER: key}, json={}, timeout=10)
        assert (response.status_code, response.json()["detail"]) == (401, NOT_CONFIGURED)
    response = requests.post(path, headers={KEY_HEADER: ""}, json={}, timeout=10)
    assert (response.status_code, response.json()["detail"]) == (401, MISSING)


def test_the_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole digests go through the one function that compares in constant time, once for every key there is."""
    seen: list[Any] = []
    real = hmac.compare_digest

    def watched(first: Any, second: Any) -> bool:
        seen.append((len(first), len(second)))
        return real(first, second)

    monkeypatch.setattr(security.hmac, "compare_digest", watched)
    key, fingerprint = admin.new_service_key()
    other = admin.new_service_key()[1]
    assert security.refusal(key, [fingerprint, other]) is None
    assert security.refusal("w", [fingerprint, other]) == INVALID
    assert seen == [(64, 64)] * 4


def test_the_hash_may_be_written_in_capitals() -> None:
    """A hash is a number: how an administrator's tool spells it does not lock the senders out."""
    key, fingerprint = admin.new_service_key()
    assert security.refusal(key, [fingerprint.upper()]) is None


def test_a_key_is_long_and_only_its_hash_is_stored(hub: RunningHub) -> None:
    """Keys are not to be guessed, two are never alike, and the database never holds one, nor a token."""
    key, fingerprint = admin.new_service_key()
    assert len(key) >= 43
    assert fingerprint == hashlib.sha256(key.encode()).hexdigest()
    assert admin.new_service_key()[0] != key
    hub.model("PUT", "/status/RUNNING")
    if hub.world.url.startswith("sqlite:///"):
        kept = Path(hub.world.url.removeprefix("sqlite:///")).read_bytes()
        assert hub.key.encode() not in kept
        assert hub.world.token.encode() not in kept
        assert hub.world.token.rpartition("_")[2].encode() not in kept


def test_too_many_wrong_keys_are_not_heard(tmp_path: Path) -> None:
    """A guesser is slowed down, told for how long, and does not silence who was let in from there before."""
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    with world(url) as filled, running_hub(filled, wrong_keys=3) as hub:
        assert hub.model("POST", "/logs", json={"log": "before"}).status_code == 200
        assert hub.call("GET", "/models").status_code == 200
        for method, path in (("POST", f"/model/{filled.model_id}/logs"), ("GET", "/models")):
            answers = [hub.call(method, path, key=f"guess-{n}", json={"log": "x"}) for n in range(5)]
            assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
            assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
        with filled.session() as session:
            unheard = security.new_service_key()[0]
            assert hub.model("POST", "/logs", key=unheard, json={"log": "x"}).status_code == 429
            session.commit()
        assert hub.model("POST", "/logs", json={"log": "after"}).status_code == 200
        assert hub.call("GET", "/models").status_code == 200


def test_a_guesser_is_heard_again_after_a_minute() -> None:
    """The limit forgets: a hospital whose key was mistyped is not locked out for good, nor is its neighbour at all."""
    now = [0.0]
    throttle = Throttle(2, clock=lambda: now[0])
    for moment in (0.0, 10.0):
        now[0] = moment
        assert throttle.wait_s("10.0.0.1", "token", "x") is None
        throttle.failed("10.0.0.1", "token")
    assert throttle.wait_s("10.0.0.1", "token", "x") == 50
    assert throttle.wait_s("10.0.0.2", "token", "x") is None
    assert throttle.wait_s("10.0.0.1", "login", "x") is None
    now[0] = 60.0
    assert throttle.wait_s("10.0.0.1", "token", "x") is None
    now[0] = 200.0
    assert throttle.wait_s("10.0.0.1", "token", "x") is None
