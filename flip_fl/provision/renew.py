"""A new certificate for a key that stays where it is: what a kit's holder gets is a public file."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.errors import FlipError
from flip_fl.provision import authority
from flip_fl.provision.authority import Authority, Issued
from flip_fl.provision.certificates import EARLIER, VALID, certificate_pem, replace_file
from flip_fl.provision.kit import (
    NODES,
    RECORD,
    SERVER,
    KitRole,
    common_name,
    kits_in,
    load_certificate,
    read_kit,
    role_of,
)

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

RENEWED = "renewed"


@dataclass(frozen=True)
class Renewal:
    """What was renewed: whose, until when, and the files that were written. ``certificate`` goes to the holder.

    ``to_copy``: where a copy of it must go in a server's kit that is not beside the CA.
    """

    name: str
    valid_to: datetime
    certificate: Path
    written: list[Path]
    to_copy: str | None = None


def renew(out: Path, which: Path) -> Renewal:
    """Issue the certificate of ``which``, a kit or a certificate file, anew: same name, same key, new dates.

    A kit gets it in place; for a certificate that lies elsewhere it is ``<out>/renewed/<name>.crt``. A server's is
    written into every kit in ``out``, which remember it. Raises ``FlipError`` E0606 without a CA in ``out``, E0607 when
    it cannot issue, E0610 for what is no kit or certificate, E0617 for one that this CA must not renew.
    """
    if not authority.exists(out):
        raise FlipError("E0606", folder=out, act="renew one of", fix=f"give the folder that holds {authority.FOLDER}/")
    ca = authority.read(out)
    old, file = _certificate(which)
    known = _checked(ca, old, which)
    new = _reissued(old, ca)
    target = file if which.is_dir() else out / RENEWED / f"{known.name}.crt"
    target.parent.mkdir(exist_ok=True, mode=0o700)
    replace_file(target, certificate_pem(new))
    written = [target]
    to_copy = None
    if known.role is KitRole.SERVER:
        written += _remember(out, certificate_pem(new).decode())
    elif ca.ledger.federation.engine == "flower":
        copy = f"{NODES}/{known.name}.crt"
        if (out / SERVER).is_dir():
            replace_file(out / SERVER / copy, certificate_pem(new))
            written.append(out / SERVER / copy)
        else:
            to_copy = copy
    _note(out, ca, Issued.of(known.name, known.role, new), new)
    return Renewal(known.name, new.not_valid_after_utc, target, written, to_copy)


def _certificate(which: Path) -> tuple[Certificate, Path]:
    file = read_kit(which).certificate_file if which.is_dir() or role_of(which) else which
    try:
        return load_certificate(file), file
    except (OSError, ValueError) as error:
        problem = "there is nothing" if isinstance(error, FileNotFoundError) else "it is no PEM certificate"
        suggestion = "give a kit's folder, or the certificate that its holder sent"
        raise FlipError("E0610", path=file, problem=problem, suggestion=suggestion) from None


def _checked(ca: Authority, old: Certificate, which: Path) -> Issued:
    """The ledger's entry for this certificate. Only the one that was issued last can be renewed."""
    from cryptography.hazmat.primitives.hashes import SHA256

    name = common_name(old)
    print_ = old.fingerprint(SHA256()).hex()
    for issued in ca.ledger.issued:
        if issued.sha256 == print_:
            if issued.name in ca.ledger.revoked:
                fix = "make its trust a new slot: flip-fl provision --add 1"
                raise FlipError("E0617", path=which, problem=f"{issued.name} is revoked", fix=fix)
            return issued
    problem = f"this CA's ledger does not have it as the last certificate of '{name}'"
    raise FlipError("E0617", path=which, problem=problem, fix="look for the newest one, or for the right --kits")


def _reissued(old: Certificate, ca: Authority) -> Certificate:
    """The same subject, public key and extensions, valid from now on."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    root = x509.load_pem_x509_certificate(ca.certificate)
    key = load_pem_private_key(ca.key, password=None)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(root.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(min(now + VALID, root.not_valid_after_utc))
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, critical=extension.critical)
    return builder.sign(key, SHA256())  # type: ignore[arg-type]  # a CA's key signs


def _remember(out: Path, pem: str) -> list[Path]:
    """Kits know the server's certificate, so that they can be checked by themselves."""
    written = []
    for kit in kits_in(out):
        record = read_kit(kit).record
        if record is not None:
            text = record.model_copy(update={"server_certificate": pem}).model_dump_json(indent=2) + "\n"
            replace_file(kit / RECORD, text.encode())
            written.append(kit / RECORD)
    return written


def _note(out: Path, ca: Authority, issued: Issued, new: Certificate) -> None:
    others = [each for each in ca.ledger.issued if each.name != issued.name]
    change: dict[str, object] = {"issued": [*others, issued]}
    if issued.role is KitRole.SERVER:
        change["server_certificate"] = certificate_pem(new).decode()
    authority.write_ledger(out / authority.FOLDER, ca.ledger.model_copy(update=change))
