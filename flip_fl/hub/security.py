"""Service keys: made, hashed, compared."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from flip_fl.wire import HUB_AUTH_DETAILS

_MISSING, _NOT_CONFIGURED, _INVALID = HUB_AUTH_DETAILS


def new_service_key() -> tuple[str, str]:
    """A fresh service key and its hash: (key, SHA-256 as 64 hexadecimal digits). Only the hash is for the hub."""
    key = secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()


def refusal(presented: str | None, hashes: Sequence[str] | None) -> str | None:
    """Why a presented key is not accepted, word for word as the contract says; None if it is.

    Without a hash (None: none was ever set) nothing is accepted. The comparison takes the same time wherever the first
    difference is, and whichever hash it is.
    """
    if not presented:
        return _MISSING
    if hashes is None:
        return _NOT_CONFIGURED
    # A header's bytes arrive as latin-1 text.
    digest = hashlib.sha256(presented.encode("latin-1", "replace")).hexdigest()
    same = [hmac.compare_digest(digest, known.lower()) for known in hashes]
    return None if any(same) else _INVALID
