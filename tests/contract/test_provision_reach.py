"""``flip-fl kit verify --connect`` against real TLS servers: what keeps a kit from its server, each with its fix."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from flip_fl.provision import authority
from flip_fl.provision.certificates import certificate_pem, issue, private_pem
from flip_fl.provision.engines import Root
from flip_fl.provision.flower import holder_of
from tests.support.cli import Finished, flip_fl
from tests.support.provision import make


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kits for one site on Flower, not to be changed."""
    return make(tmp_path_factory.mktemp("made"), "-n", "1", "--engine", "flower")


@pytest.fixture
def kits(made: Path, tmp_path: Path) -> Path:
    """A copy of them in ``tmp_path/kits``."""
    return Path(shutil.copytree(made, tmp_path / "kits"))


@contextlib.contextmanager
def server(certificate: Path, key: Path) -> Iterator[int]:
    """A TLS server that shakes hands and says nothing; its port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    over = threading.Event()
    with socket.create_server(("", 0)) as listener:
        listener.settimeout(0.1)

        def accept() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    bare, _ = listener.accept()
                    bare.settimeout(10)
                    with context.wrap_socket(bare, server_side=True) as secured:
                        secured.recv(1)

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            over.set()
            thread.join()


def look(kits: Path, port: int, *words: str) -> Finished:
    """Verify the site's kit as one whose server is at ``port``."""
    record = kits / "Trust_1/kit.json"
    record.write_text(record.read_text().replace('"port": 8002', f'"port": {port}'))
    return flip_fl("kit", "verify", "kits/Trust_1", "--connect", *words, cwd=kits.parent)


def test_the_server_of_the_kit_s_own_federation_is_recognised(kits: Path) -> None:
    """What is right is said to be right, by the checks that the engine itself makes."""
    with server(kits / "server/startup/server.crt", kits / "server/startup/server.key") as port:
        done = look(kits, port)
    assert done.exit_code == 0, done.stdout
    assert f"localhost:{port} answers, and is this federation's server" in done.stdout


@pytest.mark.parametrize(
    ("trouble", "told", "fix"),
    [
        ("expired", "its certificate has expired", "flip-fl kit renew kits/server"),
        ("another CA", "its certificate is another CA's", "ask for a kit of that federation"),
        ("another host", "its certificate is not for 127.0.0.2", "--host NAME"),
        ("nobody", "connection refused", "start the server"),
    ],
)
def test_what_keeps_a_kit_from_its_server_is_told_with_its_fix(trouble: str, told: str, fix: str, kits: Path) -> None:
    """Protects an engineer from WRONG_VERSION_NUMBER and a run that waits: the reason, and who can do what about it."""
    certificate, key = kits / "server/startup/server.crt", kits / "server/startup/server.key"
    words: tuple[str, ...] = ()
    if trouble == "expired":
        ca = authority.read(kits)
        old = issue("server", timedelta(seconds=-60), holder_of(Root(ca.certificate, ca.key)), ("localhost",))
        certificate.write_bytes(certificate_pem(old.certificate))
        key.write_bytes(private_pem(old.key))
    elif trouble == "another CA":
        (kits.parent / "other").mkdir()
        other = make(kits.parent / "other", "-n", "1", "--engine", "flower")
        certificate, key = other / "server/startup/server.crt", other / "server/startup/server.key"
    elif trouble == "another host":
        words = ("--host", "127.0.0.2")
    with contextlib.ExitStack() as parts:
        if trouble == "nobody":
            bound = parts.enter_context(socket.socket())
            bound.bind(("127.0.0.1", 0))
            port = bound.getsockname()[1]
        else:
            port = parts.enter_context(server(certificate, key))
        done = look(kits, port, *words)
    assert done.exit_code == 3, done.stdout
    assert told in done.stdout
    assert fix in done.stdout
