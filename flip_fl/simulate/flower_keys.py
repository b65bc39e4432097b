"""Keys and certificates of one deployment on this machine, made for it and thrown away with its folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate

VALID = timedelta(days=7)
# The clock of whoever checks may be a little behind.
_EARLIER = timedelta(minutes=5)


@dataclass(frozen=True)
class TlsFiles:
    """The CA's certificate, and the server's with its key; the CA's key was never written."""

    ca: Path
    certificate: Path
    key: Path


def make_tls(folder: Path) -> TlsFiles:
    """Make a CA and a server's certificate for 127.0.0.1 and localhost in ``folder``, readable by its owner alone."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    ca_key, key = _new_key(), _new_key()
    ca = _certificate("flip_fl simulated CA", ca_key, None, ca_key)
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    certificate = _certificate("localhost", key, ca, ca_key, x509.SubjectAlternativeName(names))
    files = TlsFiles(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    write_private(files.ca, ca.public_bytes(Encoding.PEM))
    write_private(files.certificate, certificate.public_bytes(Encoding.PEM))
    write_private(files.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files


def make_node_key(folder: Path, name: str) -> tuple[Path, Path]:
    """A SuperNode's key pair as OpenSSH writes it: ``<name>`` and ``<name>.pub``, on the curve P-384."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = _new_key()
    private, public = folder / name, folder / f"{name}.pub"
    write_private(private, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_private(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH))
    return private, public


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read. Raises ``FileExistsError``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def _certificate(
    name: str,
    key: EllipticCurvePrivateKey,
    issuer: Certificate | None,
    issuer_key: EllipticCurvePrivateKey,
    names: object | None = None,
) -> Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if isinstance(names, x509.SubjectAlternativeName):
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, SHA256())
