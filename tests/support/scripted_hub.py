"""A small hub over real sockets that keeps what it is sent and fails the way a test says.

It keeps ids once, as the real one does, unless ``keeps_ids`` is False (a hub that knows no idempotency). ``stored`` is
what is in its "database": one dict per row, in the order of arrival.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from uuid import UUID, uuid4

from flip_fl.wire import MetricsItem

ID_HEADER = "Idempotency-Key"
KEY = "scripted-hub-key"


@dataclass(frozen=True)
class Fault:
    """What happens to one request: ``answer`` a status, ``hang`` without a word, ``cut`` after storing, ``reset``."""

    kind: Literal["answer", "hang", "cut", "reset", "slow", "garbage"]
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Seen:
    """One request as it came; ``items`` counts the batch's, or 1."""

    method: str
    path: str
    items: int
    at: float
    key: str | None
    body: Any = None
    size: int = 0


def _singles(item: dict[str, Any]) -> list[dict[str, Any]]:
    if item["kind"] != "metrics":
        return [item]
    metrics = MetricsItem.model_validate(item).metrics()
    return [{"kind": "metric", **metric.model_dump(mode="json", exclude_none=True)} for metric in metrics]


class ScriptedHub:
    """``faults`` are used up one a request; ``always`` applies when there are none left."""

    def __init__(self) -> None:
        self.stored: list[dict[str, Any]] = []
        self.seen: list[Seen] = []
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.has_batch_route = True
        self.keeps_ids = True
        self.older = False
        self.stop_model = False
        self.max_items: int | None = None
        self.misnames: set[str] = set()
        self.refuses: Callable[[dict[str, Any]], str | None] = lambda item: None
        self.refuses_whole: Callable[[dict[str, Any]], bool] = lambda item: False
        self.single_refuses: Callable[[str, Any], int | None] = lambda route, body: None
        self._ids: set[str] = set()
        self._lock = threading.Lock()
        self._released = threading.Event()
        # Bound, never listening: nobody else gets the port while the hub is down, and callers are refused.
        self._reserved = _bound(0)
        self._port = int(self._reserved.getsockname()[1])
        self._httpd: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/api"

    @property
    def ids(self) -> list[str]:
        """The ids of the rows in the database, in order."""
        return [str(row["id"]) for row in self.stored]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [row for row in self.stored if row["kind"] == kind]

    def up(self) -> None:
        """Listen; always on the same port."""
        if self._httpd is not None:
            return
        self._released.clear()
        httpd = _Server(("127.0.0.1", self._port), _handler(self))
        self._httpd = httpd
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Refuse connections from now on; hanging requests are let go."""
        if self._httpd is not None:
            httpd, self._httpd = self._httpd, None
            self._released.set()
            httpd.shutdown()
            httpd.server_close()

    def close(self) -> None:
        """Be down for good, and leave the port to others."""
        self.down()
        self._reserved.close()

    def next_fault(self) -> Fault | None:
        with self._lock:
            return self.faults.popleft() if self.faults else self.always

    def note(self, seen: Seen) -> None:
        with self._lock:
            self.seen.append(seen)

    def keep(self, key: str, row: dict[str, Any]) -> bool:
        """Store a row once; False for a duplicate."""
        with self._lock:
            if self.keeps_ids and key in self._ids:
                return False
            self._ids.add(key)
            self.stored.append(row)
            return True

    def wait_released(self) -> None:
        self._released.wait(60)

    def batch(self, items: list[dict[str, Any]]) -> tuple[int, Any]:
        if self.max_items is not None and len(items) > self.max_items:
            return 413, {"detail": "too large"}
        if any(self.refuses_whole(item) for item in items):
            return 422, {"detail": [{"msg": "one of these"}]}
        results = []
        for item in items:
            reason = self.refuses(item)
            if item["id"] in self.misnames:
                # An answer of the right length that speaks of something else.
                self.misnames.discard(item["id"])
                results.append({"id": str(uuid4()), "outcome": "stored"})
            elif reason is not None:
                results.append({"id": item["id"], "outcome": "refused", "code": reason, "detail": f"because {reason}"})
            else:
                fresh = [self.keep(single["id"], single) for single in _singles(item)]
                results.append({"id": item["id"], "outcome": "stored" if any(fresh) else "duplicate"})
        return 200, {"results": results, "stop": self.stop_model}

    def single(self, route: str, tail: str, body: Any, key: str | None) -> tuple[int, Any]:
        status = self.single_refuses(route, tail if route == "status" else body)
        if status is not None:
            return status, {"detail": "refused"}
        name = key or str(uuid4())
        if route == "status":
            if tail == ("RUNNING" if self.older else "TRAINING_STARTED"):
                return 422, {"detail": "unknown status"}
            self.keep(name, {"id": name, "kind": "status", "status": tail})
            return 200, {"success": "status set"}
        if route == "metrics":
            self.keep(name, {"id": name, "kind": "metric", **body})
            return 204, None
        if self.older and not ({"trust", "log"} <= body.keys()):
            return 422, {"detail": "trust and log are required"}
        self.keep(name, {"id": name, "kind": "event" if "event_type" in body else "log", **body})
        return 200, {"detail": "Created"}


def _bound(port: int) -> socket.socket:
    """A socket bound to ``port`` of loopback that lets another one of ours be bound there, too."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    return made


class _Server(ThreadingHTTPServer):
    allow_reuse_address = False
    allow_reuse_port = True
    daemon_threads = True
    block_on_close = False


def _handler(hub: ScriptedHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # Answers are small and must not wait for the client's delayed acknowledgement.
        disable_nagle_algorithm = True
        wbufsize = -1

        def handle_any(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(size)
            if len(raw) < size:
                # Whoever asked was killed in the middle of it.
                self.close_connection = True
                return
            body = json.loads(raw) if raw else None
            key = self.headers.get(ID_HEADER)
            is_batch = self.path.endswith("/events")
            count = len(body["items"]) if is_batch and body else 1
            hub.note(Seen(self.command, self.path, count, time.monotonic(), key, body, len(raw)))
            fault = hub.next_fault()
            if fault is not None and fault.kind == "slow":
                time.sleep(fault.seconds)
            if fault is not None and self.fails(fault):
                return
            status, answer = self.take(is_batch, body, key)
            if fault is not None and fault.kind == "cut":
                self.hang_up()
                return
            self.reply(status, answer, {ID_HEADER: key} if key and hub.keeps_ids else {})

        def fails(self, fault: Fault) -> bool:
            match fault.kind:
                case "hang":
                    hub.wait_released()
                    self.hang_up()
                case "reset":
                    self.hang_up()
                case "answer":
                    self.reply(fault.status, {"detail": "scripted"}, fault.headers)
                case "garbage":
                    self.reply(200, {"hello": "<html>"}, {})
                case _:
                    return False
            return True

        def take(self, is_batch: bool, body: Any, key: str | None) -> tuple[int, Any]:
            if self.headers.get("X-Internal-Service-Key") != KEY:
                return 401, {"detail": "Invalid internal service key."}
            _, _, model, route, *rest = (
                self.path.strip("/").split("/") if self.path.startswith("/api/") else ["", "", ""]
            )
            UUID(model)
            if is_batch:
                if not hub.has_batch_route:
                    return 404, {"detail": "Not Found"}
                return hub.batch(body["items"])
            return hub.single(route, rest[0] if rest else "", body, key)

        def hang_up(self) -> None:
            self.close_connection = True
            try:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                """The other end was faster."""

        def reply(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
            payload = b"" if body is None else json.dumps(body).encode()
            # A scripted clock replaces the real one.
            begin = self.send_response_only if "Date" in headers else self.send_response
            begin(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            if status != 204:
                self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)
            self.wfile.flush()

        do_PUT = do_POST = handle_any

        def log_message(self, format: str, *args: Any) -> None:
            """Tests look at what was stored."""

        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                self.close_connection = True

    return Handler


@contextmanager
def scripted_hub() -> Iterator[ScriptedHub]:
    """A running hub on a free port of loopback."""
    hub = ScriptedHub()
    hub.up()
    try:
        yield hub
    finally:
        hub.close()


@contextmanager
def separate_hub(always: str = "") -> Iterator[str]:
    """A hub in a process of its own, so that it shares no interpreter lock with what is measured; yields its URL.

    ``always`` is what happens to every request: ``slow`` (50 ms), ``hang``, or nothing.
    """
    command = [sys.executable, "-m", "tests.support.scripted_hub", always]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            yield child.stdout.readline().strip()
        finally:
            child.kill()


if __name__ == "__main__":
    faults = {"slow": Fault("slow", seconds=0.05), "hang": Fault("hang")}
    with scripted_hub() as served:
        served.always = faults.get(sys.argv[1])
        print(served.url, flush=True)
        sys.stdin.read()
