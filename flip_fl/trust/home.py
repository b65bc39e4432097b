"""A trust's folder for the sandbox: its settings with fresh keys, and those of an FL client that may ask it."""

from __future__ import annotations

import secrets
from pathlib import Path

from flip_fl.settings import omop_database, write_settings_file
from flip_fl.trust.envelope import new_key


def make(settings: Path, client: Path, *, net: str, port: int) -> bool:
    """Write both files beside each other, and make the folders that they name; False where ``settings`` is there.

    The database is OMOP_DATABASE_URL of the environment, else SQLite in the folder. Raises ``OSError``.
    """
    if settings.exists():
        return False
    home = settings.parent.resolve()
    key = secrets.token_urlsafe(32)
    own = {
        "OMOP_DATABASE_URL": omop_database(f"sqlite:///{home / 'trust.sqlite'}"),
        "IMAGES_ROOT": str(home / "images"),
        "FLIP_TRUST_ARCHIVE": str(home / "archive"),
        "FLIP_TRUST_ENVELOPE_KEY": new_key(),
        "TRUST_INTERNAL_SERVICE_KEY": key,
    }
    for folder in (home / "images" / net, home / "archive"):
        folder.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{port}"
    asks = {
        "LOCAL_DEV": "false",
        "FLIP_ROLE": "client",
        "DATA_ACCESS_API_URL": url,
        "IMAGING_API_URL": url,
        "TRUST_INTERNAL_SERVICE_KEY": key,
        "NET_ID": net,
        "IMAGES_DIR": str(home / "images" / net),
        "FLIP_STATE_DIR": str(home / "state"),
    }
    write_settings_file(client, asks)
    write_settings_file(settings, own)
    return True
