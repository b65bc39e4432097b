"""Facts about a kit folder on disk: whose it is, where it connects to, and the certificate and key it holds."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flip_fl.errors import FlipError
from flip_fl.values import natural_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

RECORD = "kit.json"
STARTUP = "startup"
ROOT = "rootCA.pem"
SERVER = "server"
ADMIN = "admin"
# Of a Flower server's kit: a certificate for each slot that is let in.
NODES = "nodes"


class KitRole(StrEnum):
    """What a kit's holder does in the federation."""

    SERVER = "server"
    ADMIN = "admin"
    SITE = "site"

    @property
    def config_file(self) -> str:
        return {"server": "fed_server.json", "admin": "fed_admin.json", "site": "fed_client.json"}[self]

    @property
    def stem(self) -> str:
        """What the certificate and the key are called, without their endings."""
        return "server" if self is KitRole.SERVER else "client"


class KitRecord(BaseModel):
    """``kit.json``, written beside the engine's files: public facts, so that a kit can be checked by itself."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    format: int = 1
    net: str
    engine: str
    name: str
    role: KitRole
    host: str
    port: int
    server_certificate: str
    flip_fl: str
    engine_version: str
    made_at: datetime


@dataclass(frozen=True)
class Kit:
    """One kit. ``host`` is what its holder connects to (of the server: what it was made for, None if unknown)."""

    folder: Path
    role: KitRole
    name: str
    net: str
    host: str | None
    record: KitRecord | None

    @property
    def address(self) -> tuple[str, int] | None:
        """Where its holder connects to, as far as the kit says."""
        return None if self.host is None or self.record is None else (self.host, self.record.port)

    @property
    def certificate_file(self) -> Path:
        return self.folder / STARTUP / f"{self.role.stem}.crt"

    @property
    def key_file(self) -> Path:
        return self.folder / STARTUP / f"{self.role.stem}.key"

    @property
    def root_file(self) -> Path:
        return self.folder / STARTUP / ROOT


def kits_in(folder: Path) -> list[Path]:
    """The kits that lie directly in ``folder``: server, admin, then the sites by number."""
    found = [path for path in folder.iterdir() if role_of(path) is not None] if folder.is_dir() else []
    order = {SERVER: 0, ADMIN: 1}
    return sorted(found, key=lambda path: (order.get(path.name, 2), natural_key(path.name)))


def role_of(folder: Path) -> KitRole | None:
    """Whose kit ``folder`` is; None when it is no kit.

    NVFLARE's configuration tells it. A kit for Flower has none: kit.json does.
    """
    found = next((role for role in KitRole if (folder / STARTUP / role.config_file).is_file()), None)
    if found is None and (folder / STARTUP / ROOT).is_file():
        with contextlib.suppress(FlipError):
            record = _record(folder / RECORD)
            return record.role if record is not None and record.engine == "flower" else None
    return found


def read_kit(folder: Path) -> Kit:
    """The kit in ``folder``. Raises ``FlipError`` E0610 for anything else, naming kits that lie below it."""
    role = role_of(folder)
    if role is None:
        raise _no_kit(folder)
    record = _record(folder / RECORD)
    if record is not None and record.engine == "flower":
        return Kit(folder, role, record.name, record.net, record.host, record)
    file = folder / STARTUP / role.config_file
    config = _json(file)
    try:
        if role is KitRole.SERVER:
            net, name, host = config["servers"][0]["name"], SERVER, record.host if record else None
        elif role is KitRole.ADMIN:
            net, name, host = (config["admin"][key] for key in ("project_name", "username", "host"))
        else:
            net, name = config["servers"][0]["name"], config["client"]["fqsn"]
            host = config["servers"][0]["service"]["target"].rpartition(":")[0]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise FlipError(
            "E0610", path=folder, problem=f"{file.name} lacks what NVFLARE writes there", suggestion=_AGAIN
        ) from None
    return Kit(folder, role, str(name), str(net), host, record)


def load_certificate(file: Path) -> Certificate:
    """The PEM certificate in ``file``. Raises ``ValueError`` for anything else and ``OSError``."""
    from cryptography.x509 import load_pem_x509_certificate

    return load_pem_x509_certificate(file.read_bytes())


def load_key(file: Path) -> PrivateKeyTypes:
    """The private key in ``file``, PEM or OpenSSH. Raises ``ValueError`` for anything else and ``OSError``."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    content = file.read_bytes()
    load = load_ssh_private_key if b"BEGIN OPENSSH" in content else load_pem_private_key
    try:
        return load(content, password=None)
    except TypeError:
        raise ValueError("the key is locked by a password") from None


def common_name(certificate: Certificate) -> str:
    """The certificate's CN, empty when it has none."""
    from cryptography.x509 import NameOID

    found = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def alternative_names(certificate: Certificate) -> tuple[str, ...]:
    """DNS names and IP addresses of the certificate's SAN: the only names that TLS looks at."""
    from cryptography.x509 import DNSName, ExtensionNotFound, IPAddress, SubjectAlternativeName

    try:
        names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return ()
    return (*names.get_values_for_type(DNSName), *(str(a) for a in names.get_values_for_type(IPAddress)))


def covers(names: tuple[str, ...], host: str) -> bool:
    """Whether a certificate with these alternative names is good for ``host``."""
    try:
        return str(ip_address(host)) in names
    except ValueError:
        wanted = host.rstrip(".").casefold()
    for name in (name.casefold() for name in names):
        if name == wanted or (name.startswith("*.") and wanted.partition(".")[2] == name[2:]):
            return True
    return False


_AGAIN = "ask the federation's administrator for the kit again"


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise FlipError(
            "E0610", path=file.parent.parent, problem=f"{file.name} cannot be read as JSON", suggestion=_AGAIN
        ) from None


def _record(file: Path) -> KitRecord | None:
    if not file.is_file():
        return None
    try:
        return KitRecord.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        raise FlipError(
            "E0610", path=file.parent, problem=f"{RECORD} is not as flip-fl wrote it", suggestion=_AGAIN
        ) from None


def _no_kit(folder: Path) -> FlipError:
    if not folder.exists():
        problem, suggestion = "there is no such folder", "give the folder that holds the kit's startup/"
    elif not folder.is_dir():
        problem, suggestion = "it is no folder", "unpack the kit and give its folder"
    elif below := kits_in(folder):
        problem = f"it holds {len(below)} kits" if len(below) > 1 else "it holds one"
        suggestion = f"flip-fl kit verify {shlex.quote(str(below[-1]))}"
    elif folder.name == STARTUP and role_of(folder.parent):
        problem, suggestion = "it is a part of one", f"flip-fl kit verify {shlex.quote(str(folder.parent))}"
    else:
        names = ", ".join(f"{STARTUP}/{role.config_file}" for role in KitRole)
        problem, suggestion = f"it has none of {names}", "give the folder that holds the kit's startup/"
    return FlipError("E0610", path=folder, problem=problem, suggestion=suggestion)


def slot_number(name: str) -> int | None:
    """The number of a slot's name, None for a name that is no slot's."""
    found = re.fullmatch(r"Trust_([1-9][0-9]*)", name)
    return int(found.group(1)) if found else None
