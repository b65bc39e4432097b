"""What making kits asks of an engine, and who answers for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from flip_fl.provision.project import Engine, Federation


@dataclass(frozen=True)
class Root:
    """The CA: its certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes


@dataclass(frozen=True)
class Built:
    """What one provisioning made: the CA and a folder for each kit, by its name in the output."""

    root: Root
    folders: dict[str, Path]


class KitMaker(Protocol):
    """Makes the kits of one engine."""

    def version(self) -> str:
        """The installed engine's version."""
        ...

    def build(self, federation: Federation, slots: Sequence[str], workspace: Path, root: Root | None = None) -> Built:
        """Make kits in ``workspace``: with ``root`` for ``slots`` alone, without it a new CA and the server's as well.

        ``workspace`` must be private, and is to be deleted. Raises ``FlipError`` E0609.
        """
        ...


def maker(engine: Engine) -> KitMaker:
    """Whoever makes kits for ``engine``; imports that engine's library."""
    if engine == "flower":
        from flip_fl.provision.flower import FlowerKits

        return FlowerKits()
    from flip_fl.provision.nvflare import NvflareKits

    return NvflareKits()
