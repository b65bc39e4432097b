"""Which node keys a SuperLink knows: exactly those whose certificates lie in the server's kit, by the name in them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flip_fl.provision.certificates import public_openssh
from flip_fl.provision.kit import common_name, load_certificate, slot_number
from flip_fl.values import natural_key

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


class Registry(Protocol):
    """A SuperLink's list of nodes."""

    def register(self, name: str, public_key: Path) -> str:
        """Add a key under ``name``; the node's id. Raises ``FlipError`` E0506."""
        ...

    def unregister(self, node_id: str) -> None:
        """Take a node out. Raises ``FlipError`` E0506."""
        ...


@dataclass(frozen=True)
class Registered:
    """A node as it was registered: the fingerprint of its certificate, and the SuperLink's id of it."""

    fingerprint: str
    node_id: str


class Nodes:
    """Keeps a SuperLink's list equal to the certificates in ``certificates``; what was done is in ``state``."""

    def __init__(self, certificates: Path, root: Certificate, state: Path, tell: Callable[[str], None]) -> None:
        self._certificates = certificates
        self._root = root
        self._state = state
        self._file = state / "nodes.json"
        self._tell = tell
        self._told: set[str] = set()

    def agree(self, registry: Registry) -> None:
        """Take out whose certificate is gone or another, and add whose is new.

        A certificate that is not this federation's is refused and told of once. Raises ``FlipError`` E0506; what was
        done until then is known the next time.
        """
        wanted = self._wanted()
        known = self._known()
        for name, node in sorted(known.items()):
            if name not in wanted or _fingerprint(wanted[name]) != node.fingerprint:
                registry.unregister(node.node_id)
                del known[name]
                self._keep(known)
                self._tell(f"{name}: its key is no longer accepted")
        for name in sorted(wanted.keys() - known.keys(), key=natural_key):
            public = self._state / f"{name}.pub"
            public.write_bytes(public_openssh(wanted[name]))
            known[name] = Registered(_fingerprint(wanted[name]), registry.register(name, public))
            self._keep(known)
            self._tell(f"{name}: its key is registered")

    def _wanted(self) -> dict[str, Certificate]:
        found = {}
        for path in sorted(self._certificates.glob("*.crt")):
            try:
                certificate = load_certificate(path)
                problem = self._problem(path.stem, certificate)
            except (OSError, ValueError):
                problem = "it is no PEM certificate"
            if problem is None:
                found[path.stem] = certificate
            elif f"{path.name} {problem}" not in self._told:
                self._told.add(f"{path.name} {problem}")
                self._tell(f"{path.name} is refused: {problem}")
        return found

    def _problem(self, name: str, certificate: Certificate) -> str | None:
        from cryptography.exceptions import InvalidSignature

        try:
            certificate.verify_directly_issued_by(self._root)
        except (InvalidSignature, ValueError, TypeError):
            return "this federation's CA has not issued it"
        if slot_number(name) is None or common_name(certificate) != name:
            return f"it is {common_name(certificate)}'s"
        if certificate.not_valid_after_utc < datetime.now(UTC):
            return f"it has expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
        return None

    def _known(self) -> dict[str, Registered]:
        try:
            told = json.loads(self._file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        return {name: Registered(**facts) for name, facts in told.items()}

    def _keep(self, known: Mapping[str, Registered]) -> None:
        facts = {name: {"fingerprint": node.fingerprint, "node_id": node.node_id} for name, node in known.items()}
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._file)


def _fingerprint(certificate: Certificate) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()
