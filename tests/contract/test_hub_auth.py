"""Who gets in: the service key, word for word, on every route."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flip_fl.hub import admin, security
from tests.support.hub import RunningHub, hub_server

MISSING = "Not authenticated: internal service key is missing."
NOT_CONFIGURED = "Internal service auth not configured."
INVALID = "Invalid internal service key."

ROUTES = [
    ("PUT", "/model/{model}/status/RUNNING"),
    ("POST", "/model/{model}/metrics"),
    ("POST", "/model/{model}/logs"),
    ("POST", "/model/{model}/events"),
    ("GET", "/model/{model}/metrics"),
    ("GET", "/model/{model}/logs"),
    ("GET", "/model/{model}/status"),
    ("GET", "/model/{model}/story"),
    ("PUT", "/model/{model}"),
    ("DELETE", "/model/{model}"),
    ("POST", "/trusts/{model}/slot"),
    ("DELETE", "/slots/Trust_1"),
    ("GET", "/nets/default/revocations"),
    ("GET", "/openapi.json"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=" ".join)
def test_every_route_needs_the_key(hub: RunningHub, method: str, path: str) -> None:
    """Without a key, and with a wrong one, no route answers anything but the contract's 401."""
    path = path.format(model=hub.world.model_id)
    for key, detail in (("", MISSING), ("wrong", INVALID), (hub.key + "x", INVALID), (hub.key[:-1], INVALID)):
        response = hub.call(method, path, key=key, json={})
        assert (response.status_code, response.json()) == (401, {"detail": detail})


def test_the_table_above_names_every_route(hub: RunningHub) -> None:
    """A new route cannot be forgotten in the table."""
    paths = hub.call("GET", "/openapi.json").json()["paths"]
    served = {(method.upper(), path) for path, operations in paths.items() for method in operations}
    open_ones = {("GET", "/health"), ("GET", "/api/health")}
    listed = {(method, "/api" + path.replace("{model}", "{}").replace("Trust_1", "{}")) for method, path in ROUTES}
    normal = {(method, _placeholders(path)) for method, path in served - open_ones}
    assert normal == {(m, p.replace("default", "{}").replace("RUNNING", "{}")) for m, p in listed} - {
        ("GET", "/api/openapi.json")
    }


def _placeholders(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))


@pytest.mark.parametrize("path", ["/health", "/api/health"])
def test_health_is_open_and_names_the_service(hub: RunningHub, path: str) -> None:
    """A doctor can tell a FLIP hub from anything else without a key, and learns nothing more."""
    response = requests.get(hub.base.removesuffix("/api") + path, timeout=10)
    assert response.status_code == 200
    assert set(response.json()) == {"service", "status", "version"}
    assert response.json()["service"] == "flip-hub"


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
    path = f"{closed}/model/9d3a1a52-3e0c-4f9e-8d9e-0a58c5b5b5b5/status"
    for key in ("x", "None", hashlib.sha256(b"").hexdigest()):
        response = requests.get(path, headers={"X-Internal-Service-Key": key}, timeout=10)
        assert (response.status_code, response.json()["detail"]) == (401, NOT_CONFIGURED)
    response = requests.get(path, headers={"X-Internal-Service-Key": ""}, timeout=10)
    assert (response.status_code, response.json()["detail"]) == (401, MISSING)


def test_the_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole digests go through the one function that compares in constant time, and its word is final."""
    seen: list[Any] = []
    real = hmac.compare_digest

    def watched(first: Any, second: Any) -> bool:
        seen.append((len(first), len(second)))
        return real(first, second)

    monkeypatch.setattr(security.hmac, "compare_digest", watched)
    key, fingerprint = admin.new_service_key()
    assert security.refusal(key, fingerprint) is None
    assert security.refusal("w", fingerprint) == INVALID
    assert seen == [(64, 64), (64, 64)]


def test_the_hash_may_be_written_in_capitals() -> None:
    """A hash is a number: how an administrator's tool spells it does not lock the senders out."""
    key, fingerprint = admin.new_service_key()
    assert security.refusal(key, fingerprint.upper()) is None


def test_a_key_is_long_and_only_its_hash_is_stored(hub: RunningHub, tmp_path: Path) -> None:
    """Keys are not to be guessed, two are never alike, and the database never holds one."""
    key, fingerprint = admin.new_service_key()
    assert len(key) >= 43
    assert fingerprint == hashlib.sha256(key.encode()).hexdigest()
    assert admin.new_service_key()[0] != key
    hub.model("PUT", "/status/RUNNING")
    if hub.world.url.startswith("sqlite:///"):
        assert hub.key.encode() not in Path(hub.world.url.removeprefix("sqlite:///")).read_bytes()
