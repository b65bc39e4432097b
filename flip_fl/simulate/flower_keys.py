"""Keys and certificates of one deployment on this machine, made for it and thrown away with its folder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from flip_fl.provision.certificates import (
    certificate_pem,
    issue,
    private_openssh,
    private_pem,
    public_openssh,
    write_private,
)

VALID = timedelta(days=7)


@dataclass(frozen=True)
class TlsFiles:
    """The CA's certificate, and the server's with its key; the CA's key was never written."""

    ca: Path
    certificate: Path
    key: Path


def make_tls(folder: Path) -> TlsFiles:
    """Make a CA and a server's certificate for 127.0.0.1 and localhost in ``folder``, readable by its owner alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca = issue("flip_fl simulated CA", VALID)
    server = issue("localhost", VALID, ca, ("localhost", "127.0.0.1"))
    files = TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    write_private(files.ca, certificate_pem(ca.certificate))
    write_private(files.certificate, certificate_pem(server.certificate))
    write_private(files.key, private_pem(server.key))
    return files


def make_node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A SuperNode's key pair as OpenSSH writes it: ``<name>`` and ``<name>.pub``, on the curve P-384."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    node = issue(name or "node", VALID)
    private, public = folder / name, folder / f"{name}.pub"
    write_private(private, private_openssh(node.key))
    write_private(public, public_openssh(node.certificate))
    return private, public
