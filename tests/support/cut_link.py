"""A link to an HTTP server that fails in chosen ways: bytes are passed on as they come, in both directions."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Fault:
    """What happens to requests whose first line matches ``request``, ``times`` of them; the others pass.

    ``cut_after``: their connection ends after so many more bytes of the request. ``swallow``: the server gets them,
    its answer is lost. ``flip_answer``: the last byte of each piece of the answer's is another one.
    """

    request: str
    times: int = 1
    cut_after: int | None = None
    swallow: bool = False
    flip_answer: bool = False
    met: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def meets(self, data: bytes) -> bool:
        """Whether ``data`` begins a request that it happens to, and counts it."""
        line = data.split(b"\r\n", 1)[0].decode("latin-1")
        with self._lock:
            if not re.match(self.request, line) or self.met >= self.times:
                return False
            self.met += 1
            return True


class _Connection:
    """One client's, and its own to the server."""

    def __init__(self, client: socket.socket, server: socket.socket, fault: Fault) -> None:
        self._client = client
        self._server = server
        self._fault = fault
        self._left: int | None = None
        self._struck = False

    def start(self) -> None:
        for pump in (self._up, self._down):
            threading.Thread(target=pump, daemon=True).start()

    def close(self) -> None:
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _up(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._client.recv(65536):
                if re.match(rb"[A-Z]+ /", data):
                    self._struck = self._fault.meets(data)
                    self._left = self._fault.cut_after if self._struck else None
                if self._left is not None:
                    self._left -= len(data)
                    if self._left <= 0:
                        break
                self._server.sendall(data)
        self.close()

    def _down(self) -> None:
        with contextlib.suppress(OSError):
            while data := self._server.recv(65536):
                if self._struck and b" 100 " in data[:20]:
                    self._client.sendall(data)
                    continue
                if self._struck and self._fault.swallow:
                    break
                if self._struck and self._fault.flip_answer:
                    data = data[:-1] + bytes([data[-1] ^ 1])
                self._client.sendall(data)
        self.close()


@contextlib.contextmanager
def cut_link(endpoint: str, fault: Fault) -> Iterator[str]:
    """The address of a link to the server at ``endpoint``, until the block ends."""
    target = urlsplit(endpoint)
    listener = socket.create_server(("127.0.0.1", 0))
    connections: list[_Connection] = []

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            connection = _Connection(client, socket.create_connection((target.hostname, target.port)), fault)
            connections.append(connection)
            connection.start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            connection.close()


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """The address of a server that takes connections and never answers, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
