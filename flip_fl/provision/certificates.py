"""Keys and X.509 certificates on the curve P-384, which Flower takes for its nodes, and the files they are kept in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.x509 import Certificate, GeneralName

# The clock of whoever checks may be a little behind.
EARLIER = timedelta(minutes=5)
# As NVFLARE's own.
VALID = timedelta(days=360)


@dataclass(frozen=True)
class Holder:
    """A certificate and the private key that belongs to it."""

    certificate: Certificate
    key: EllipticCurvePrivateKey


def new_key() -> EllipticCurvePrivateKey:
    """A private key on P-384."""
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP384R1())


def issue(name: str, valid: timedelta, issuer: Holder | None = None, names: Sequence[str] = ()) -> Holder:
    """A new key and its certificate with the CN ``name``: of a CA without ``issuer``, else issued by that CA.

    ``names`` are the alternative names (SAN), host names and IP addresses.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    key = new_key()
    by = key if issuer is None else issuer.key
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + valid)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(each) for each in names]), critical=False)
    return Holder(builder.sign(by, SHA256()), key)


def certificate_pem(certificate: Certificate) -> bytes:
    """The certificate as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def private_pem(key: EllipticCurvePrivateKey) -> bytes:
    """The private key as PKCS #8 in PEM, as TLS servers read it."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def private_openssh(key: EllipticCurvePrivateKey) -> bytes:
    """The private key as OpenSSH writes it: the only form that a SuperNode reads."""
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def public_openssh(certificate: Certificate) -> bytes:
    """The certificate's public key in OpenSSH's one line, as a SuperLink registers it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return certificate.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only its owner can read, and is on the disk afterwards. Raises ``FileExistsError``."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Write ``path`` in one step, with the mode that it has (a new one: its owner reads, nobody else)."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o600
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    write_private(temporary, content)
    temporary.chmod(mode)
    temporary.replace(path)


def _name(name: str) -> GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
