"""A real HTTP server on loopback that writes down what it is asked and answers what a test scripts."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Recorded:
    """One request: ``path`` as sent (still percent-encoded), ``query`` decoded, header names in lower case."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What to answer. ``body`` is sent as JSON unless it is bytes; ``hang_up`` closes without a word."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang_up: bool = False
    wait: threading.Event | None = None


class RecordingServer:
    """``requests`` in the order they came; ``answer`` may be replaced at any time."""

    def __init__(self, answer: Callable[[Recorded], Answer] | None = None) -> None:
        self.requests: list[Recorded] = []
        self.answer: Callable[[Recorded], Answer] = answer or (lambda request: Answer())
        self._lock = threading.Lock()
        self._httpd = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._httpd.daemon_threads = True
        # A client that gave up waiting is what some tests are about, nothing to print a traceback of.
        self._httpd.handle_error = lambda request, address: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._httpd.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._httpd.server_address[1]}"

    @property
    def only(self) -> Recorded:
        """The one request there was."""
        assert len(self.requests) == 1, [f"{r.method} {r.path}" for r in self.requests]
        return self.requests[0]

    def script(self, *answers: Answer) -> None:
        """Answer one after the other, the last one for ever."""
        queue = list(answers)
        self.answer = lambda request: queue.pop(0) if len(queue) > 1 else queue[0]

    @contextmanager
    def running(self) -> Iterator[RecordingServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._httpd.shutdown()
            self._httpd.server_close()
            self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                parts = urlsplit(self.path)
                request = Recorded(
                    method=self.command,
                    path=parts.path,
                    query=tuple(parse_qsl(parts.query, keep_blank_values=True)),
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
                )
                with recorder._lock:
                    recorder.requests.append(request)
                    answer = recorder.answer(request)
                if answer.wait is not None:
                    answer.wait.wait(60)
                if answer.hang_up:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.reply(answer)

            def reply(self, answer: Answer) -> None:
                payload = answer.body if isinstance(answer.body, bytes) else b""
                if answer.body is not None and not isinstance(answer.body, bytes):
                    payload = json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {"Content-Type": "application/json", **answer.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_PUT = do_POST = do_DELETE = handle_any

            def log_message(self, format: str, *args: Any) -> None:
                """Tests look at what was recorded, not at a log."""

        return Handler


@contextmanager
def recording_server(answer: Callable[[Recorded], Answer] | None = None) -> Iterator[RecordingServer]:
    """A running ``RecordingServer`` on a free port; by default everything is answered 200 with no body."""
    with RecordingServer(answer).running() as server:
        yield server
