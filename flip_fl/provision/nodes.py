"""Which node keys a SuperLink knows: exactly those whose certificates lie in the server's kit, by the name in them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from flip_fl.provision.certificates import public_openssh
from flip_fl.provision.kit import common_name, load_certificate, slot_number
from flip_fl.values import natural_key

if TYPE_CHECKING:
    from cryptography.x509 import Certificate


NODES_FILE = "nodes.json"


class Registry(Protocol):
    """A SuperLink's list of nodes."""

    def register(self, name: str, public_key: Path) -> str | None:
        """Add a key under ``name``; the node's id, None for a key that is there already. Raises ``FlipError`` E0506."""
        ...

    def nodes(self) -> set[str]:
        """The ids of all nodes that are registered. Raises ``FlipError`` E0506."""
        ...

    def unregister(self, node_id: str) -> None:
        """Take a node out. Raises ``FlipError`` E0506."""
        ...


@dataclass(frozen=True)
class Registered:
    """A node as it was registered: its public key (SHA-256 of OpenSSH's line), and the SuperLink's id of it."""

    key: str
    node_id: str


class Nodes:
    """Keeps a SuperLink's list equal to the certificates in ``certificates``; what was done is in ``state``."""

    def __init__(self, certificates: Path, root: Certificate, state: Path, tell: Callable[[str], None]) -> None:
        self._certificates = certificates
        self._root = root
        self._state = state
        self._file = state / NODES_FILE
        self._tell = tell
        self._told: set[str] = set()
        # Slots whose certificates have expired. A SuperLink never takes a key back that it has let go: they stay
        # registered, so that a renewed certificate helps, and the gate keeps them out meanwhile.
        self.expired: frozenset[str] = frozenset()

    def agree(self, registry: Registry) -> None:
        """Take out whose certificate is gone or another, and add whose is new.

        A certificate that is not this federation's is refused and told of once. Raises ``FlipError`` E0506; what was
        done until then is known the next time.
        """
        wanted, expired = self._wanted()
        known = self._known()
        self.expired = frozenset(expired)
        for name, node in sorted(known.items()):
            # A certificate that was renewed for the same key changes nothing.
            there = wanted.get(name) or expired.get(name)
            if there is None or _key(there) != node.key:
                registry.unregister(node.node_id)
                del known[name]
                self._keep(known)
                self._tell(f"{name}: its key is no longer accepted")
        for name in sorted(wanted.keys() - known.keys(), key=natural_key):
            public = self._state / f"{name}.pub"
            public.write_bytes(public_openssh(wanted[name]))
            node_id = registry.register(name, public) or self._lost(registry, known)
            if node_id is None:
                self._tell_once(f"{name}: its key was registered as a node that is not known; it needs a new kit")
                continue
            known[name] = Registered(_key(wanted[name]), node_id)
            self._keep(known)
            self._tell(f"{name}: its key is registered")

    def _wanted(self) -> tuple[dict[str, Certificate], dict[str, Certificate]]:
        """Certificates by slot: those that hold, and those that only are too old."""
        found, expired = {}, {}
        for path in sorted(self._certificates.glob("*.crt")):
            try:
                certificate = load_certificate(path)
                problem = self._problem(path.stem, certificate)
            except (OSError, ValueError):
                problem = "it is no PEM certificate"
            else:
                if problem is None and certificate.not_valid_after_utc < datetime.now(UTC):
                    problem = f"it has expired on {certificate.not_valid_after_utc:%Y-%m-%d}"
                    expired[path.stem] = certificate
                elif problem is None:
                    found[path.stem] = certificate
            if problem is not None:
                self._tell_once(f"{path.name} is refused: {problem}")
        return found, expired

    def _lost(self, registry: Registry, known: Mapping[str, Registered]) -> str | None:
        """The node that was registered by somebody who was killed before he could write that down."""
        unknown = registry.nodes() - {node.node_id for node in known.values()}
        return unknown.pop() if len(unknown) == 1 else None

    def _tell_once(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    def _problem(self, name: str, certificate: Certificate) -> str | None:
        from cryptography.exceptions import InvalidSignature

        try:
            certificate.verify_directly_issued_by(self._root)
        except (InvalidSignature, ValueError, TypeError):
            return "this federation's CA has not issued it"
        if slot_number(name) is None or common_name(certificate) != name:
            return f"it is {common_name(certificate)}'s"
        return None

    def _known(self) -> dict[str, Registered]:
        return registered(self._state)

    def _keep(self, known: Mapping[str, Registered]) -> None:
        facts = {name: asdict(node) for name, node in known.items()}
        temporary = self._file.with_suffix(".new")
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        temporary.replace(self._file)


def registered(state: Path) -> dict[str, Registered]:
    """Who is registered, by slot, as the running server has noted it in its kit's ``state``."""
    try:
        told = json.loads((state / NODES_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return {name: Registered(**facts) for name, facts in told.items()}


def slots_by_key(state: Path) -> dict[str, str]:
    """The slot of each registered key, which is named as in ``Registered``."""
    return {node.key: slot for slot, node in registered(state).items()}


def _key(certificate: Certificate) -> str:
    return hashlib.sha256(public_openssh(certificate)).hexdigest()
