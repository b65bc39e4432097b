"""Who a trust's services let in, and what they say of input that they cannot read."""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flip_fl.errors import FlipError
from flip_fl.settings import TrustSettings, load
from flip_fl.trust import security
from flip_fl.trust.envelope import Envelope, new_key
from tests.support.core import clean_environment
from tests.support.trust import ENVELOPE_KEY, KEY, PROJECT, RunningTrust, filled, running_trust, trust_settings

MISSING = "Not authenticated: trust-internal service key is missing."
NOT_CONFIGURED = "Trust-internal service auth not configured."
INVALID = "Invalid trust-internal service key."
ROUTES = [
    ("POST", "/cohort/dataframe"),
    ("POST", "/download/images/net-1?assessor_type=scan&resource_type=DICOM"),
    ("PUT", "/upload/images/net-1"),
]
BAD_ENVELOPE = b'{"detail":"The project id cannot be read."}'


@pytest.fixture(scope="module")
def trust(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTrust]:
    root = tmp_path_factory.mktemp("trust")
    url = filled(f"sqlite:///{root / 'trust.sqlite'}", root)
    with running_trust(trust_settings(root, url)) as running:
        yield running


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_needs_the_key(trust: RunningTrust, method: str, path: str) -> None:
    """Without a key, and with a wrong one, no route answers anything but the contract's 401; no schema is told."""
    for key, detail in (("", MISSING), ("wrong", INVALID), (KEY + "x", INVALID), (KEY[:-1], INVALID)):
        response = trust.call(method, path, key=key, json={"nonsense": 1})
        assert (response.status_code, response.json()) == (401, {"detail": detail})


def test_the_table_above_names_every_route(trust: RunningTrust) -> None:
    """A new route cannot be forgotten in the table."""
    served = {(method, route.path) for route in trust.app.routes for method in route.methods}  # type: ignore[attr-defined]
    listed = {(method, path.partition("?")[0].replace("net-1", "{net:path}")) for method, path in ROUTES}
    assert served == listed | {("GET", "/health"), ("HEAD", "/health")}


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/", "/cohort"])
def test_nothing_else_is_served(trust: RunningTrust, path: str) -> None:
    """No documentation, no listing: what is not a route is not there."""
    assert requests.get(trust.base + path, timeout=10).status_code == 404


def test_health_is_open_and_tells_nothing(trust: RunningTrust) -> None:
    """Whoever started it can see that it is up, without a key."""
    response = requests.get(f"{trust.base}/health", timeout=10)
    assert set(response.json()) == {"service", "status", "version"}
    assert response.json()["service"] == "flip-trust"


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize("key", ["", None])
def test_malformed_json_is_422_even_without_a_key(trust: RunningTrust, method: str, path: str, key: str | None) -> None:
    """The order of the contract: what is not JSON is refused before anybody is asked who they are."""
    for body in ('{"query": canary', "canary", "\xff", ""):
        response = trust.call(
            method, path, key=key, data=body.encode("latin-1"), headers={"Content-Type": "application/json"}
        )
        assert response.status_code == 422
        assert "canary" not in response.text


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_schema_error_is_told_by_place_only(trust: RunningTrust, method: str, path: str) -> None:
    """422 names what is wrong where, and quotes nothing: a NaN in it would even break the answer."""
    for body in ('{"query": 7, "canary-name": "canary"}', '{"query": NaN, "accession_id": NaN}', '["canary"]', "null"):
        response = trust.call(method, path, data=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 422
        assert "canary" not in response.text
        assert "NaN" not in response.text
        assert all(set(error) == {"type", "loc", "msg"} for error in response.json()["detail"])


def test_unknown_types_are_422(trust: RunningTrust) -> None:
    """A resource or assessor type that no trust knows is no missing study."""
    assert trust.download("0002", "canary").status_code == 422
    path = "/download/images/net-1"
    body = {"encrypted_central_hub_project_id": trust.sealed(), "accession_id": "0002"}
    assert trust.call("POST", path, json=body).status_code == 422
    response = trust.call("POST", f"{path}?assessor_type=canary&resource_type=DICOM", json=body)
    assert response.status_code == 422
    assert "canary" not in response.text


def test_a_body_is_bounded(trust: RunningTrust) -> None:
    """Nobody fills the trust's memory with one request."""
    assert trust.cohort("x" * (2 << 20)).status_code == 413


def test_a_trust_without_a_key_lets_nobody_in(tmp_path: Path) -> None:
    """An unset key fails closed."""
    url = filled(f"sqlite:///{tmp_path / 'trust.sqlite'}", tmp_path)
    with running_trust(trust_settings(tmp_path, url, trust_key=None)) as closed:
        for key in ("x", "None", KEY):
            response = closed.call("POST", "/cohort/dataframe", key=key, json={})
            assert (response.status_code, response.json()["detail"]) == (401, NOT_CONFIGURED)
        assert closed.call("POST", "/cohort/dataframe", key="", json={}).json()["detail"] == MISSING


def test_the_comparison_takes_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two whole digests go through the one function that compares in constant time, and its word is final."""
    seen: list[Any] = []
    real = hmac.compare_digest

    def watched(first: Any, second: Any) -> bool:
        seen.append((len(first), len(second)))
        return real(first, second)

    monkeypatch.setattr(security.hmac, "compare_digest", watched)
    assert security.refusal(KEY, KEY) is None
    assert security.refusal("w", KEY) == INVALID
    assert security.refusal("café", "café") is None
    assert seen == [(32, 32)] * 3


@pytest.mark.parametrize(
    "sealed",
    [
        "",
        PROJECT,
        "canary" * 100,
        "gAAAAA",
        "é",
        "\ud800",
        "a\0b",
        Envelope(new_key()).seal(PROJECT),
        Envelope(ENVELOPE_KEY).seal(PROJECT)[:-4],
        Envelope(ENVELOPE_KEY)._fernet.encrypt(b"\xff").decode(),
        Envelope(ENVELOPE_KEY)._fernet.encrypt(b" ").decode(),
        Envelope(ENVELOPE_KEY)._fernet.encrypt(b"a\0b").decode(),
    ],
    # envelopes are other ones in each process: a test's name must not hold them
    ids=[
        "empty",
        "name",
        "long",
        "cut",
        "accent",
        "surrogate",
        "nul",
        "other-key",
        "short",
        "no-utf8",
        "blank",
        "nul-in",
    ],
)
def test_an_envelope_that_this_trust_did_not_seal_is_refused(trust: RunningTrust, sealed: str) -> None:
    """Only the trust makes project ids: on every route another one is 400, whatever is asked for."""
    body = {
        "encrypted_project_id": sealed,
        "encrypted_central_hub_project_id": sealed,
        "query": "SELECT * FROM omop.cohort",
        "accession_id": "0002",
        "scan_id": "1",
        "resource_id": "SEG",
        "files": [],
    }
    for method, path in ROUTES:
        response = trust.call(method, path, json=body)
        assert (response.status_code, response.content) == (400, BAD_ENVELOPE)


def test_an_envelope_is_another_one_each_time() -> None:
    """Two jobs of one project cannot be told to be of one by their ids."""
    envelope = Envelope(ENVELOPE_KEY)
    first, second = envelope.seal("Größe 1"), envelope.seal("Größe 1")
    assert first != second
    assert envelope.open(first) == envelope.open(second) == "Größe 1"
    for name in ("", " ", "a\nb", "x" * 256):
        with pytest.raises(ValueError, match="no project"):
            envelope.seal(name)


VALUES = {
    "OMOP_DATABASE_URL": "sqlite:///trust.sqlite",
    "IMAGES_ROOT": "images",
    "FLIP_TRUST_ARCHIVE": "archive",
    "FLIP_TRUST_ENVELOPE_KEY": ENVELOPE_KEY,
}


def test_the_settings_have_the_contract_s_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threshold 10, also where the variable is there and empty; rows; live; closed without a key."""
    clean_environment(monkeypatch)
    for name, value in {**VALUES, "COHORT_QUERY_THRESHOLD": "", "TRUST_INTERNAL_SERVICE_KEY": ""}.items():
        monkeypatch.setenv(name, value)
    settings = load(TrustSettings)
    assert (settings.threshold, settings.threshold_counts, settings.cohort) == (10, "rows", "live")
    assert settings.trust_key is None
    assert ENVELOPE_KEY not in repr(settings)


def test_what_is_missing_or_malformed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust that lacks a setting refuses to start with all of them by name, and never shows a key."""
    clean_environment(monkeypatch)
    with pytest.raises(FlipError) as caught:
        load(TrustSettings)
    assert caught.value.what == f"the trust cannot start: {', '.join(VALUES)} not set"
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
    for name, bad in (
        ("FLIP_TRUST_COHORT", "cold"),
        ("FLIP_TRUST_THRESHOLD_COUNTS", "heads"),
        ("COHORT_QUERY_THRESHOLD", "-1"),
        ("COHORT_QUERY_THRESHOLD", "ten"),
        ("FLIP_TRUST_ENVELOPE_KEY", "canary-short"),
        ("TRUST_INTERNAL_SERVICE_KEY", "  "),
    ):
        with monkeypatch.context() as patch:
            patch.setenv(name, bad)
            with pytest.raises(FlipError, match=name) as caught:
                load(TrustSettings)
            assert caught.value.code == "E0404"
            assert "canary" not in caught.value.text()
