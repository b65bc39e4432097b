"""Kits for Flower, which has no provisioning of its own: a CA, a SuperLink with TLS, and a node key for each slot.

A SuperLink knows a node by its bare public key. Here each key comes with a certificate that names the slot, issued by
the federation's CA: the server registers no key without one, and under no other name.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import timedelta
from importlib import metadata
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.provision.certificates import (
    VALID,
    Holder,
    certificate_pem,
    issue,
    private_openssh,
    private_pem,
    write_private,
)
from flip_fl.provision.engines import Built, Root
from flip_fl.provision.kit import NODES, ROOT, SERVER, STARTUP, KitRole
from flip_fl.provision.project import Federation

# As NVFLARE's: slots are added under the CA of the first day, so it must outlive many generations of certificates.
CA_VALID = timedelta(days=3650)
# The SuperLink itself listens on this machine alone, and is spoken to by these names there.
OWN_NAMES = ("localhost", "127.0.0.1")


class FlowerKits:
    """See ``engines.KitMaker``. A federation for Flower has no kit for an administrator: jobs start at the server."""

    def version(self) -> str:
        return metadata.version("flwr")

    def build(self, federation: Federation, slots: Sequence[str], workspace: Path, root: Root | None = None) -> Built:
        ca = issue(f"flip_fl net {federation.net}", CA_VALID) if root is None else holder_of(root)
        made = Root(certificate_pem(ca.certificate), private_pem(ca.key))
        folders: dict[str, Path] = {}
        if root is None:
            names = tuple(dict.fromkeys((*federation.server.names, *OWN_NAMES)))
            folders[SERVER] = _write(workspace / SERVER, KitRole.SERVER, made, issue(SERVER, VALID, ca, names))
            (folders[SERVER] / NODES).mkdir()
        for slot in slots:
            node = issue(slot, VALID, ca, (slot,))
            folders[slot] = _write(workspace / slot, KitRole.SITE, made, node)
            if root is None:
                shutil.copy(folders[slot] / STARTUP / "client.crt", folders[SERVER] / NODES / f"{slot}.crt")
        return Built(made, folders)


def _write(folder: Path, role: KitRole, root: Root, holder: Holder) -> Path:
    startup = folder / STARTUP
    startup.mkdir(parents=True, mode=0o700)
    (startup / ROOT).write_bytes(root.certificate)
    (startup / f"{role.stem}.crt").write_bytes(certificate_pem(holder.certificate))
    key = private_pem(holder.key) if role is KitRole.SERVER else private_openssh(holder.key)
    write_private(startup / f"{role.stem}.key", key)
    return folder


def holder_of(root: Root) -> Holder:
    """The CA as who issues. Raises ``FlipError`` E0609 for a key of another kind."""
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from cryptography.x509 import load_pem_x509_certificate

    key = load_pem_private_key(root.key, password=None)
    if not isinstance(key, EllipticCurvePrivateKey):
        raise FlipError("E0609", problem="the CA's key is of a kind that Flower does not take")
    return Holder(load_pem_x509_certificate(root.certificate), key)
