"""What lies in a kit's folder: who can read its key or change its files, and whether it holds somebody else's key."""

from __future__ import annotations

import shlex
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flip_fl.errors import FlipError
from flip_fl.provision.kit import STARTUP, Kit, load_key

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

MAX_KEY_FILE_BYTES = 1 << 20


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. ``error`` is the catalogue's own for a failure that has one."""

    name: str
    state: Literal["ok", "warn", "fail"]
    what: str
    why: str | None = None
    fix: str | None = None
    error: FlipError | None = None


def word(path: Path) -> str:
    """``path`` as a word for the shell; a kit may come from anybody, so control characters are escaped."""
    return shlex.quote("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path)))


def modes(kit: Kit) -> Iterator[Finding]:
    """Others must read no key and write nothing that the engine starts or believes."""
    good = True
    keys = {path for path, _ in _private_keys(kit.folder)} | {kit.key_file}
    for path in sorted(path for path in keys if path.exists()):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            good = False
            what = f"{path.relative_to(kit.folder)} has mode {mode:04o}"
            why = "whoever reads it can connect as " + kit.name
            yield Finding("modes", "fail", what, why, f"chmod 600 {word(path)}")
    startup, local = kit.folder / STARTUP, kit.folder / "local"
    for path in sorted(local.glob("*.env")):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            good = False
            why = "whoever reads it has the key in it"
            yield Finding("modes", "fail", f"local/{path.name} has mode {mode:04o}", why, f"chmod 600 {word(path)}")
    for path in (kit.folder, startup, *sorted(startup.rglob("*")), local, *sorted(local.rglob("*"))):
        if path.is_symlink() or not path.exists() or path in keys:
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022:
            good = False
            shown = "the kit's folder" if path == kit.folder else str(path.relative_to(kit.folder))
            why = "others could change what this site runs"
            yield Finding("modes", "fail", f"{shown} has mode {mode:04o}", why, f"chmod go-w {word(path)}")
    if good:
        yield Finding("modes", "ok", "no key or settings can be read, and nothing changed, by others")


def foreign_keys(kit: Kit, own: PublicKeyTypes | None) -> Iterator[Finding]:
    found = False
    for path, public in _private_keys(kit.folder):
        if path == kit.key_file or (public is not None and public == own):
            continue
        found = True
        what = f"{path.relative_to(kit.folder)} is a private key that is not {kit.name}'s"
        why = "a kit holds only its own secrets: its holder could be somebody else"
        yield Finding("foreign keys", "fail", what, why, f"delete {word(path)} and tell the federation's administrator")
    if not found:
        yield Finding("foreign keys", "ok", f"no other private key than {kit.name}'s")


def _private_keys(folder: Path) -> Iterator[tuple[Path, PublicKeyTypes | None]]:
    """Every file below ``folder`` that holds a PEM private key, with its public half where it can be read."""
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_KEY_FILE_BYTES:
                continue
            if b"PRIVATE KEY-----" not in path.read_bytes():
                continue
        except OSError:
            continue
        try:
            yield path, load_key(path).public_key()
        except ValueError:
            yield path, None
