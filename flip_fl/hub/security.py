"""Who may call: the internal service key, compared by its hash."""

from __future__ import annotations

import hashlib
import hmac

from fastapi import HTTPException, Request

from flip_fl.settings import HubSettings
from flip_fl.wire import HUB_AUTH_DETAILS

_MISSING, _NOT_CONFIGURED, _INVALID = HUB_AUTH_DETAILS


def refusal(presented: str | None, key_hash: str) -> str | None:
    """Why a presented key is not accepted, word for word as the contract says; None if it is.

    A hub without a hash accepts nothing. The comparison takes the same time wherever the first difference is.
    """
    if not presented:
        return _MISSING
    if not key_hash:
        return _NOT_CONFIGURED
    # A header's bytes arrive as latin-1 text.
    digest = hashlib.sha256(presented.encode("latin-1", "replace")).hexdigest()
    return None if hmac.compare_digest(digest, key_hash.lower()) else _INVALID


async def require_service_key(request: Request) -> None:
    """A dependency: 401 unless the request carries the service key."""
    settings: HubSettings = request.app.state.settings
    reason = refusal(request.headers.get(settings.service_key_header), settings.service_key_hash)
    if reason is not None:
        raise HTTPException(401, reason)
