"""A run's folder, looked through for what must not have left its trusts: logs, hub, outboxes, bundles, report."""

from __future__ import annotations

import contextlib
import sqlite3
import zipfile
from collections.abc import Iterator
from pathlib import Path

from flip_fl.settings import TrustSettings, load


def keys(out: Path) -> list[str]:
    """The keys of every trust of a run."""
    files = sorted((out / "state" / "sites").glob("*/trust/trust.env"))
    assert files
    settings = [load(TrustSettings, file) for file in files]
    secrets = [secret for each in settings for secret in (each.trust_key, each.envelope_key)]
    return sorted({secret.get_secret_value() for secret in secrets if secret is not None})


def told_of(out: Path, canaries: list[str], below: str = "") -> list[tuple[str, str]]:
    """Where outside the trusts a canary is: (place, canary). ``below``: a folder that is left out, too."""
    found = {(place, canary) for place, text in told(out, below) for canary in canaries if canary.encode() in text}
    return sorted(found)


def told(out: Path, below: str) -> Iterator[tuple[str, bytes]]:
    """Everything of a run but what the trusts have: their folders, the data they were filled with, their settings."""
    own = {("state", name) for name in ("sites", "data", "local", "settings")}
    for path in sorted(out.rglob("*")):
        parts = path.relative_to(out).parts
        if not path.is_file() or parts[:2] in own or parts[0] == below:
            continue
        name = "/".join(parts)
        yield name, path.read_bytes()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as bundle:
                yield from ((f"{name}, {member}", bundle.read(member)) for member in bundle.namelist())
        elif path.suffix == ".sqlite":
            # A long text lies in pieces in the file itself.
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
                yield f"{name}, as SQL", "\n".join(database.iterdump()).encode()
