"""Who may call: the trust's service key, compared with the one that this trust was given."""

from __future__ import annotations

import hashlib
import hmac

from starlette.requests import Request

from flip_fl.settings import TrustSettings
from flip_fl.wire import TRUST_AUTH_DETAILS

_MISSING, _NOT_CONFIGURED, _INVALID = TRUST_AUTH_DETAILS


def refusal(presented: str | None, key: str | None) -> str | None:
    """Why a presented key is not accepted, word for word as the contract says; None if it is.

    Without a key of its own a trust accepts nothing. Digests are compared, so that neither the place of the first
    difference nor the key's length shows in the time it takes.
    """
    if not presented:
        return _MISSING
    if not key:
        return _NOT_CONFIGURED
    # A header's bytes arrive as latin-1 text.
    given, ours = (hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (presented, key))
    return None if hmac.compare_digest(given, ours) else _INVALID


def refusal_of(request: Request) -> str | None:
    """Why the request may not be answered; None if it carries the trust's key."""
    settings: TrustSettings = request.app.state.settings
    key = None if settings.trust_key is None else settings.trust_key.get_secret_value()
    return refusal(request.headers.get(settings.trust_key_header), key)
