"""HTTP: time-outs, no redirects, joined addresses, and errors without bodies."""

from __future__ import annotations

import base64
import gzip
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
        free.bind(("127.0.0.1", 0))  # and not listening: nobody answers there, and nobody else gets it meanwhile
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
    with pytest.raises(ValueError, match=r"^POST /x: JSON cannot carry what is to be sent$"):
        HttpClient(service.url).request("POST", ("x",), route="/x", json={"a": float("nan")})
    assert service.requests == []


HALF_ANSWERS = {
    "no status line": b"HTTP/1.1 2",
    "a body that is cut": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
    "a part that is cut": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n{",
    "no last part": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    "something else than HTTP": b"220 mail.example ESMTP\r\n\r\n",
    "no gzip": b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("answer", HALF_ANSWERS.values(), ids=HALF_ANSWERS)
def test_half_an_answer_is_none(answer: bytes) -> None:
    """Whether it is read as a whole or bit by bit: half a cohort must not be taken for the cohort."""
    with _saying(answer) as url:
        client = HttpClient(url)
        with pytest.raises(HttpConnectionError) as caught:
            client.request("GET", ("x",), route="/x")
        assert (caught.value.sent, caught.value.answered) == (True, False)
        with pytest.raises(HttpConnectionError), client.stream("GET", ("x",), route="/x") as streamed:
            streamed.read()


def test_packed_answers_are_unpacked(service: RecordingServer) -> None:
    """A service may pack what it sends to those who say that they can unpack it."""
    service.script(Answer(body=gzip.compress(b'{"a": 1}'), headers={"Content-Encoding": "gzip"}))
    client = HttpClient(service.url)
    assert client.request("GET", ("x",), route="/x").json() == {"a": 1}
    with client.stream("GET", ("x",), route="/x") as streamed:
        assert streamed.read() == b'{"a": 1}'
    assert "gzip" in service.requests[0].headers["accept-encoding"]


def test_connections_are_kept_and_opened_anew_where_the_service_closed_them(service: RecordingServer) -> None:
    """Opening one takes longer than most requests; one that was closed while idle is no failure of the next."""
    ports = _ports(service)
    client = HttpClient(service.url)
    for _ in range(3):
        client.request("GET", ("x",), route="/x")
        with client.stream("GET", ("x",), route="/x") as streamed:
            streamed.read()
    assert len(set(ports)) == len(ports) == 1
    service.script(Answer(headers={"Connection": "close"}), Answer())
    for _ in range(3):
        client.request("GET", ("x",), route="/x")
    assert len(ports) == 2


def test_an_answer_that_was_not_read_to_its_end_is_not_taken_for_the_next(service: RecordingServer) -> None:
    """What is left of it on the connection goes with the connection."""
    service.script(Answer(body=b"x" * (3 << 20)), Answer(body=b"next"))
    client = HttpClient(service.url)
    with client.stream("GET", ("x",), route="/x") as streamed:
        assert streamed.read(1) == b"x"
    assert client.request("GET", ("x",), route="/x").content == b"next"


def test_requests_of_many_threads_do_not_mix(service: RecordingServer) -> None:
    """Each gets the answer to its own question, whichever connection carries it."""
    service.answer = lambda request: Answer(body={"path": request.path})
    client = HttpClient(service.url)

    def ask(number: int) -> bool:
        return bool(client.request("POST", (str(number),), route="/{}", json={}).json() == {"path": f"/{number}"})

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(400)))


def test_a_forked_process_begins_with_connections_of_its_own(service: RecordingServer) -> None:
    """Two processes on one would read each other's answers; the child's end leaves the parent's as it was."""
    ports = _ports(service)
    client = HttpClient(service.url)
    client.request("GET", ("parent",), route="/x")
    child = os.fork()
    if child == 0:
        # The child must not return into the test runner, whatever happens.
        try:
            client.request("GET", ("child",), route="/x")
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    client.request("GET", ("parent",), route="/x")
    assert [request.path for request in service.requests] == ["/parent", "/child", "/parent"]
    assert len(ports) == 2


@pytest.mark.parametrize("key", ["canary\n", "canary\r\nX-Other: 1", " canary", "canary\u0142"])
def test_a_key_that_no_header_can_carry_is_neither_sent_nor_shown(service: RecordingServer, key: str) -> None:
    """The libraries below would quote it."""
    with pytest.raises(HttpConnectionError) as caught:
        HttpClient(service.url, key_header="X-Key", key=key).request("GET", ("x",), route="/x")
    assert str(caught.value) == "GET /x: no answer (InvalidHeader)"
    assert (caught.value.sent, caught.value.answered) == (False, False)
    assert "canary" not in f"{caught.value.__context__!r}"
    assert service.requests == []


@pytest.mark.parametrize(
    "url", ["http://", "ftp://127.0.0.1:1", "127.0.0.1:1", "http://127.0.0.1:99999", "http://[::1"]
)
def test_what_is_no_address_gives_no_answer(url: str) -> None:
    """It is found when somebody asks, by the name of the route as everything else."""
    with pytest.raises(HttpConnectionError, match=r"^GET /x: no answer") as caught:
        HttpClient(url).request("GET", ("x",), route="/x")
    assert caught.value.sent is False


def test_the_host_s_environment_changes_nothing(
    service: RecordingServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither a proxy nor a .netrc redirects or re-authenticates hospital traffic; what the address says counts."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    HttpClient(service.url).request("GET", ("x",), route="/x")
    HttpClient(service.url.replace("//", "//user:pa%3Ass@")).request("GET", ("x",), route="/x")
    told = [request.headers.get("authorization") for request in service.requests]
    assert told == [None, f"Basic {base64.b64encode(b'user:pa:ss').decode()}"]


def test_while_the_service_works_something_else_can_be_done(service: RecordingServer) -> None:
    """It is called once, when the service has all of the request and before it has answered."""
    gate, seen = threading.Event(), []
    service.script(Answer(wait=gate))

    def meanwhile() -> None:
        deadline = time.monotonic() + 60
        while not service.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        seen.append(service.only.json)
        gate.set()

    HttpClient(service.url).request("POST", ("x",), route="/x", written=b'{"a": 1}', meanwhile=meanwhile)
    assert seen == [{"a": 1}]
    assert service.only.headers["content-type"] == "application/json"


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


def test_a_certificate_of_a_known_authority_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not for another host's name."""
    certificate = _own_certificate(tmp_path / "cert.pem")
    monkeypatch.setattr("flip_fl.http.DEFAULT_CA_BUNDLE_PATH", str(certificate))
    server = RecordingServer()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server._httpd.socket = context.wrap_socket(server._httpd.socket, server_side=True)
    url = server.url.replace("http:", "https:")
    with server.running():
        for _ in range(2):
            assert HttpClient(url).request("GET", ("x",), route="/x").status_code == 200
        with pytest.raises(HttpConnectionError, match="SSLError"):
            HttpClient(url.replace("127.0.0.1", "localhost")).request("GET", ("x",), route="/x")
    assert len(server.requests) == 2


def _ports(service: RecordingServer) -> list[int]:
    """Where each connection comes from, as they are opened."""
    ports: list[int] = []
    original = service._httpd.verify_request
    service._httpd.verify_request = lambda request, address: (  # type: ignore[method-assign]
        ports.append(address[1]) is None and original(request, address)
    )
    return ports


@contextmanager
def _saying(answer: bytes) -> Iterator[str]:
    """The address of a service that says this to whoever asks, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


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
