"""Kits for tests: made by the real command, reissued with the real CA, and looked at byte by byte."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from nvflare.lighter.utils import Identity, generate_cert, generate_keys, serialize_cert, serialize_pri_key

from flip_fl.provision.kit import SERVER, load_key
from tests.support.cli import flip_fl

HOST = "fl.example.org"


def make(cwd: Path, *words: str) -> Path:
    """``flip-fl provision`` with ``words`` in ``cwd``; the folder of the kits. Fails with what the command said."""
    done = flip_fl("provision", *words, cwd=cwd)
    assert done.exit_code == 0, done.stderr
    return cwd / "kits"


def fill_in(kits: Path) -> None:
    """Settings for every site's kit in ``kits``, without which none starts: local data, as no job here reads any."""
    for settings in kits.glob("*/local/*.env"):
        if settings.parent.parent.name != SERVER:
            settings.write_text("LOCAL_DEV=true\n", encoding="utf-8")


def tree(folder: Path) -> dict[str, tuple[int, str]]:
    """Every file and folder below ``folder`` with its mode and the hash of its content."""
    return {
        str(path.relative_to(folder)): (
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
        )
        for path in sorted(folder.rglob("*"))
    }


def private_keys(folder: Path) -> list[str]:
    """The files below ``folder`` that hold a private key in any spelling, also inside another file."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and b"PRIVATE KEY" in path.read_bytes()
    )


def reissue(kits: Path, name: str, *, begin: timedelta, end: timedelta) -> None:
    """Give the site ``name`` a certificate of the same CA that holds from now + ``begin`` to now + ``end``."""
    private, public = generate_keys()
    now = datetime.now(UTC)
    certificate = generate_cert(
        Identity(name, name),
        Identity("default"),
        load_key(kits / "ca" / "rootCA.key"),
        public,
        not_valid_before=now + begin,
        not_valid_after=now + end,
    )
    startup = kits / name / "startup"
    (startup / "client.crt").write_bytes(serialize_cert(certificate))
    (startup / "client.key").write_bytes(serialize_pri_key(private))


def expire_ca(kits: Path) -> None:
    """Replace the CA's certificate by one with the same key whose last day is past."""
    key = load_key(kits / "ca" / "rootCA.key")
    now = datetime.now(UTC)
    name = Identity("default")
    certificate = generate_cert(
        name,
        name,
        key,
        key.public_key(),
        ca=True,
        not_valid_before=now - timedelta(days=9),
        not_valid_after=now - timedelta(days=1),
    )
    (kits / "ca" / "rootCA.pem").write_bytes(serialize_cert(certificate))


@contextmanager
def web_server(behind: timedelta) -> Iterator[str]:
    """A web server whose Date is ``behind`` this machine's clock and that answers 404; its address."""

    class Handler(BaseHTTPRequestHandler):
        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) - behind, usegmt=True)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is logged."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
