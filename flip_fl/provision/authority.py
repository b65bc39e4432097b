"""``<out>/ca``: the CA's key and the record of what was issued. Whoever has this folder can be anybody.

It holds no other key: a site's private key lies in that site's kit and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from flip_fl.errors import FlipError
from flip_fl.provision.certificates import write_private
from flip_fl.provision.kit import KitRole, load_certificate, load_key
from flip_fl.provision.project import Federation
from flip_fl.values import natural_key

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

FOLDER = "ca"
LEDGER = "federation.json"
CERTIFICATE = "rootCA.pem"
KEY = "rootCA.key"


class Issued(BaseModel):
    """One certificate that was issued: to whom, which, and how long it holds. ``sha256`` is its fingerprint."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    role: KitRole
    serial: str
    sha256: str
    valid_from: datetime
    valid_to: datetime

    @classmethod
    def of(cls, name: str, role: KitRole, certificate: Certificate) -> Issued:
        from cryptography.hazmat.primitives.hashes import SHA256

        return cls(
            name=name,
            role=role,
            serial=f"{certificate.serial_number:x}",
            sha256=certificate.fingerprint(SHA256()).hex(),
            valid_from=certificate.not_valid_before_utc,
            valid_to=certificate.not_valid_after_utc,
        )


class Ledger(BaseModel):
    """``federation.json``: the federation as provisioned, its server's certificate (PEM) and all that was issued.

    ``revoked``: the slots whose kits are kept out, and since when.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: int = 1
    federation: Federation
    server_certificate: str
    issued: list[Issued]
    revoked: dict[str, datetime] = {}

    @property
    def sites(self) -> list[str]:
        """The slots that kits were made for, by number; the renewed and the revoked among them."""
        return sorted((each.name for each in self.issued if each.role is KitRole.SITE), key=natural_key)


@dataclass(frozen=True)
class Authority:
    """A CA that can issue: certificate and key as PEM, and its ledger."""

    certificate: bytes
    key: bytes
    ledger: Ledger


def exists(out: Path) -> bool:
    """Whether kits were made in ``out``, also if all of them were handed out since."""
    return (out / FOLDER).exists()


def read_ledger(out: Path) -> Ledger:
    """What was issued in ``out``. Raises ``FlipError`` E0607."""
    file = out / FOLDER / LEDGER
    try:
        return Ledger.model_validate_json(file.read_bytes())
    except OSError as error:
        raise _unusable(out, f"{LEDGER} cannot be read ({(error.strerror or '').lower()})") from None
    except ValidationError:
        raise _unusable(out, f"{LEDGER} is not as flip-fl wrote it") from None


def read(out: Path) -> Authority:
    """The CA of ``out``. Raises ``FlipError`` E0607 for one that is incomplete or whose key is another's."""
    ledger = read_ledger(out)
    certificate, key = out / FOLDER / CERTIFICATE, out / FOLDER / KEY
    try:
        fits = load_key(key).public_key() == load_certificate(certificate).public_key()
        contents = certificate.read_bytes(), key.read_bytes()
    except OSError as error:
        raise _unusable(out, f"{Path(str(error.filename)).name} cannot be read") from None
    except ValueError:
        raise _unusable(out, f"{CERTIFICATE} or {KEY} is no PEM file") from None
    if not fits:
        raise _unusable(out, f"{KEY} is not the key of {CERTIFICATE}")
    return Authority(*contents, ledger)


def write(folder: Path, authority: Authority) -> None:
    """Write a new CA into ``folder``, readable by its owner alone."""
    folder.mkdir(mode=0o700)
    write_private(folder / KEY, authority.key)
    write_private(folder / CERTIFICATE, authority.certificate)
    write_ledger(folder, authority.ledger)


def write_ledger(folder: Path, ledger: Ledger) -> None:
    """Replace the ledger in one step, so that a crash leaves the old one or the new one."""
    temporary = folder / f".{LEDGER}.new"
    temporary.unlink(missing_ok=True)
    write_private(temporary, (ledger.model_dump_json(indent=2) + "\n").encode())
    temporary.replace(folder / LEDGER)


def _unusable(out: Path, problem: str) -> FlipError:
    return FlipError("E0607", folder=out / FOLDER, problem=problem)
