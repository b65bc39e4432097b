"""HTTP: time-outs, no redirects, joined addresses, and errors without bodies."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import unquote

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from flip_fl.http import CONNECT_TIMEOUT_S, HttpClient, HttpConnectionError, HttpStatusError, status_error
from tests.support.recording_server import Answer, RecordingServer, recording_server


@pytest.fixture
def service() -> Iterator[RecordingServer]:
    with recording_server() as server:
        yield server


@pytest.mark.parametrize("base", ["", "/", "//", "/api", "/api/", "/api//"])
def test_addresses_are_joined_without_a_double_slash(service: RecordingServer, base: str) -> None:
    """A double slash made every trust call a 404."""
    HttpClient(service.url + base).request("GET", ("a", "b"), route="/a/b")
    assert service.only.path == f"{base.rstrip('/')}/a/b"


@pytest.mark.parametrize("segment", ["../admin", "a/b", "a?b=c", "a#b", "a b", "é", "%2e%2e", "..x"])
def test_a_segment_stays_one_segment(service: RecordingServer, segment: str) -> None:
    """What a caller puts into an address cannot change which route it is."""
    HttpClient(service.url).request("GET", ("x", segment, "y"), route="/x/{}/y")
    assert service.only.query == ()
    assert [unquote(part) for part in service.only.path.split("/")] == ["", "x", segment, "y"]


@pytest.mark.parametrize("segment", ["", ".", ".."])
def test_a_segment_that_would_make_it_another_path_is_not_sent(service: RecordingServer, segment: str) -> None:
    """Encoding does not help here: whoever reads the address takes the dots for a way up."""
    with pytest.raises(ValueError, match="climbs"):
        HttpClient(service.url).request("GET", ("x", segment, "y"), route="/x/{}/y")
    assert service.requests == []


def test_an_error_has_the_status_and_the_headers_but_no_body(service: RecordingServer) -> None:
    """Whoever prints the error, its response or its attributes prints nothing of what was answered."""
    service.script(Answer(429, {"detail": "canary"}, {"Retry-After": "7"}))
    with pytest.raises(HttpStatusError) as caught:
        HttpClient(service.url, key_header="X-Key", key="secret-key").request("POST", ("x",), route="/x", json={"a": 1})
    error = caught.value
    assert error.response is not None
    assert (error.status_code, error.response.status_code, error.response.headers["Retry-After"]) == (429, 429, "7")
    assert error.response.content == b""
    assert error.request is None
    shown = f"{error!r} {error} {vars(error)} {vars(error.response)}"
    assert "canary" not in shown
    assert "secret-key" not in shown


@pytest.mark.parametrize("status", [100 + 199, 301, 302, 303, 307, 308, 400, 404, 500, 503])
def test_everything_but_a_success_is_an_error(service: RecordingServer, status: int) -> None:
    """A 3xx is one, too."""
    if status < 300:
        service.script(Answer(status))
        assert HttpClient(service.url).request("GET", ("x",), route="/x").status_code == status
        return
    service.script(Answer(status, headers={"Location": f"{service.url}/elsewhere"}))
    with pytest.raises(HttpStatusError, match=f"^GET /x: HTTP {status}$"):
        HttpClient(service.url).request("GET", ("x",), route="/x")
    assert len(service.requests) == 1


def test_no_answer_is_told_apart_by_whether_anything_was_sent(service: RecordingServer) -> None:
    """What was never sent can be sent again; what may have arrived must not double a metric."""
    service.script(Answer(hang_up=True))
    with pytest.raises(HttpConnectionError) as caught:
        HttpClient(service.url).request("POST", ("x",), route="/x", json={})
    assert caught.value.sent is True
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(HttpConnectionError) as caught:
        HttpClient(f"http://127.0.0.1:{port}").request("POST", ("x",), route="/x", json={})
    assert caught.value.sent is False
    assert str(port) not in str(caught.value)
    assert isinstance(caught.value, requests.ConnectionError)


def test_every_call_ends(service: RecordingServer) -> None:
    """A service that never answers is given up on after the read time-out, or a shorter one of the call's own."""
    gate = threading.Event()
    service.script(Answer(wait=gate))
    try:
        for client, timeout in [
            (HttpClient(service.url, read_timeout_s=0.3), None),
            (HttpClient(service.url, read_timeout_s=60), 0.3),
        ]:
            began = time.monotonic()
            with pytest.raises(HttpConnectionError, match="ReadTimeout"):
                client.request("GET", ("x",), route="/x", timeout_s=timeout)
            assert time.monotonic() - began < 15
    finally:
        gate.set()
    assert CONNECT_TIMEOUT_S == 5.0


def test_the_key_goes_to_the_service_it_belongs_to_only(service: RecordingServer) -> None:
    """Two clients in one process do not share headers."""
    HttpClient(service.url, key_header="X-A", key="a").request("GET", ("x",), route="/x")
    HttpClient(service.url, key_header="X-B", key="b").request("GET", ("x",), route="/x")
    first, second = service.requests
    assert (first.headers.get("x-a"), first.headers.get("x-b")) == ("a", None)
    assert (second.headers.get("x-a"), second.headers.get("x-b")) == (None, "b")


def test_only_allowed_details_are_shown(service: RecordingServer) -> None:
    """Word for word: a text that begins like an allowed one may go on with anything."""
    client = HttpClient(service.url)
    for detail, shown in [("fine", "fine"), ("fine, row 7", None), ("Fine", None), (["fine"], None), (7, None)]:
        service.script(Answer(400, {"detail": detail}))
        with pytest.raises(HttpStatusError) as caught:
            client.request("GET", ("x",), route="/x", show_details=frozenset({"fine"}))
        assert caught.value.detail == shown
    for body in (b"", b"<html>", b"[]", b'"fine"', b"\xff\xfe"):
        service.script(Answer(400, body))
        with pytest.raises(HttpStatusError) as caught:
            client.request("GET", ("x",), route="/x", show_details=frozenset({"fine"}))
        assert caught.value.detail is None


def test_a_local_source_can_fail_as_a_service_would() -> None:
    """A missing study in development is the error of a 404."""
    error = status_error("POST", "/download/images/{net}", 404)
    assert isinstance(error, requests.HTTPError)
    assert error.response is not None
    assert error.response.status_code == 404
    assert str(error) == "POST /download/images/{net}: HTTP 404"


def test_bodies_that_json_cannot_carry_are_not_sent(service: RecordingServer) -> None:
    """NaN is no JSON: a hub that reads it strictly would refuse a whole batch."""
    with pytest.raises((HttpConnectionError, ValueError)):
        HttpClient(service.url).request("POST", ("x",), route="/x", json={"a": float("nan")})
    assert service.requests == []


def test_tls_certificates_are_verified(tmp_path: Path) -> None:
    """A key must not go to whoever answers with a certificate of their own making."""
    server = RecordingServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_own_certificate(tmp_path / "cert.pem"))
    server._httpd.socket = context.wrap_socket(server._httpd.socket, server_side=True)
    client = HttpClient(server.url.replace("http:", "https:"), key_header="X-Key", key="k")
    with server.running(), pytest.raises(HttpConnectionError, match="SSLError"):
        client.request("GET", ("x",), route="/x")
    assert server.requests == []


def _own_certificate(path: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that nobody but itself has signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    return path
