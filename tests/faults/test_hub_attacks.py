"""Hostile input over a real socket: refused with a reason, kept out of the tables, and the hub serves on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import requests

from flip_fl.hub.tables import FlLog, FlMetric, Model, Project
from flip_fl.services.patience import PatientProtocol
from tests.support.hub import RunningHub, item, metric

SQL = (
    "'; DROP TABLE fl_metrics; --",
    "' OR '1'='1",
    "x' UNION SELECT key_hash FROM keys --",
    "\\'); DELETE FROM model;",
)


def _healthy(hub: RunningHub) -> None:
    assert requests.get(f"{hub.base}/health", timeout=10).status_code == 200
    assert hub.batch(item("log", log="still here"))["results"][0]["outcome"] == "stored"


@contextmanager
def _connection(hub: RunningHub) -> Iterator[socket.socket]:
    host, port = hub.base.removeprefix("http://").removesuffix("/api").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as opened:
        yield opened


def _answer(opened: socket.socket) -> bytes:
    got = b""
    # What the hub had not read when it closed makes the end a reset; its answer is there all the same.
    with suppress(ConnectionResetError):
        while part := opened.recv(65536):
            got += part
    return got


@pytest.mark.parametrize("text", SQL)
def test_sql_in_any_text_is_only_text(hub: RunningHub, text: str) -> None:
    """Labels, logs, names and queries reach the database as values; what was asked for is what is found."""
    hub.batch(metric("Trust_1", text, 0.5, 1), metric("Trust_1", "loss", 0.5, 1), item("log", log=text))
    hub.model("PUT", json={"name": text, "description": text})
    assert hub.model("GET", "/plot", params={"label": text}).json()["label"] == text
    assert hub.model("GET", "/plot", params={"label": f"{text}x"}).status_code == 404
    assert len(hub.model("GET", "/metrics.csv", params={"label": text}).text.splitlines()) == 2
    assert hub.call("GET", f"/model/{text.replace('/', '')}/plots").status_code in (404, 422)
    assert hub.batch(metric(text, "loss", 0.5, 1))["results"][0]["code"] == "unknown_client"
    assert hub.world.rows(Model)[0].name == text
    assert (len(hub.world.rows(FlMetric)), len(hub.world.rows(Project)), hub.logs()) == (2, 1, [text])
    _healthy(hub)


def test_a_header_cannot_be_smuggled(hub: RunningHub) -> None:
    """What came with a request never becomes a header of an answer, and broken headers are no request."""
    for key in ("k\r\nX-Injected: 1", "k\nX-Injected: 1"):
        with _connection(hub) as opened:
            body = b'{"log": "x"}'
            lines = [
                f"POST /api/model/{hub.world.model_id}/logs HTTP/1.1",
                "Host: x",
                f"X-Internal-Service-Key: {hub.key}",
                f"Idempotency-Key: {key.replace(chr(13), '%0d').replace(chr(10), '%0a')}",
                f"Content-Length: {len(body)}",
                "Connection: close",
            ]
            opened.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
            head = _answer(opened).split(b"\r\n\r\n")[0].lower()
            assert b"\r\nx-injected" not in head
    with _connection(hub) as opened:
        opened.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\nBad\x00Name: 1\r\n\r\n")
        assert _answer(opened).startswith(b"HTTP/1.1 400")
    with _connection(hub) as opened:
        opened.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000 + b"\r\n\r\n")
        assert _answer(opened).startswith(b"HTTP/1.1 431")
    _healthy(hub)


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/assets/..%2f..%2fhub.sqlite",
        "/api/model/..%2f..%2fhub.env/story",
        "//etc/passwd",
        "/%00",
    ],
)
def test_a_path_leads_nowhere_but_to_routes(hub: RunningHub, path: str) -> None:
    """No file of the machine is ever an answer."""
    with _connection(hub) as opened:
        opened.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = _answer(opened)
    assert answer.split(b" ")[1] in (b"303", b"400", b"401", b"404", b"422")
    assert b"root:" not in answer
    assert b"SQLite" not in answer


def test_a_body_without_end_and_one_too_deep_are_refused(hub: RunningHub) -> None:
    """Two gigabytes said or sent, and a hundred thousand brackets: refused in bounded memory and time."""
    with _connection(hub) as opened:
        opened.sendall(
            f"POST /api/model/{hub.world.model_id}/events HTTP/1.1\r\nHost: x\r\nX-Internal-Service-Key: {hub.key}\r\n"
            "Content-Length: 2000000000\r\n\r\n".encode()
        )
        assert _answer(opened).startswith(b"HTTP/1.1 413")

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100_000

    # The refusal may come while the rest is still being sent.
    with suppress(requests.ConnectionError):
        assert hub.model("POST", "/events", data=endless()).status_code == 413
    deep = b"[" * 100_000 + b"]" * 100_000
    for path, body in (
        ("/events", b'{"items": ' + deep + b"}"),
        ("/events", b'{"items": [{"kind": "event", "details": ' + deep + b"}]}"),
        ("/logs", b'{"event_type": "X", "global_round": 1, "details": {"a": ' + deep + b"}}"),
    ):
        answer = hub.model("POST", path, data=body, headers={"Content-Type": "application/json"})
        assert answer.status_code in (400, 422) or answer.json()["results"][0]["outcome"] == "refused"
    huge = json.dumps({"items": [metric("Trust_1", "loss", 0.5, 1) | {"global_round": 10**400}]})
    assert hub.model("POST", "/events", data=huge).status_code in (200, 422)
    assert hub.world.rows(FlLog) == []
    _healthy(hub)


def test_those_who_send_slowly_hold_up_nobody(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hundred connections that send a byte now and then are closed; meanwhile the others are answered."""
    monkeypatch.setattr(PatientProtocol, "headers_s", 1.5)
    with _slow(hub, 200) as slow:
        begun = time.monotonic()
        _healthy(hub)
        answered = time.monotonic() - begun
        for opened in slow:
            opened.sendall(b"X-A: b\r\n")
        ends = [_answer(opened) for opened in slow]
    assert {end[:12] for end in ends} == {b"HTTP/1.1 408"}
    assert answered < 20  # not waiting for any of them: they would have been there for ever
    _healthy(hub)


@contextmanager
def _slow(hub: RunningHub, count: int) -> Iterator[list[socket.socket]]:
    host, port = hub.base.removeprefix("http://").removesuffix("/api").split(":")
    opened = [socket.create_connection((host, int(port)), timeout=60) for _ in range(count)]
    try:
        for each in opened:
            each.sendall(b"POST /api/health HTTP/1.1\r\nHost: x\r\n")
        yield opened
    finally:
        for each in opened:
            each.close()
