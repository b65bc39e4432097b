"""Reading what the hub knows of a run: with a login token, because the service key only reports."""

from __future__ import annotations

import hashlib

from flip_fl.errors import FlipError
from flip_fl.http import HUB_READ_TIMEOUT_S, HttpClient, HttpStatusError
from flip_fl.settings import ServerSettings

TOKEN = "FLIP_HUB_TOKEN"
_MAKE_ONE = f"flip-fl hub token add NAME --role viewer, and set {TOKEN} to what it shows"


def reading_client(settings: ServerSettings, *, read_timeout_s: float = HUB_READ_TIMEOUT_S) -> HttpClient:
    """A client for the read routes. Raises ``FlipError`` E0401 when the settings hold no token."""
    if settings.hub_token is None:
        place = "the FL server's settings or the environment"
        raise FlipError("E0401", role="reader of a run", names=TOKEN, place=place, fix=_MAKE_ONE)
    return token_client(settings.hub_url, settings.hub_token.get_secret_value(), read_timeout_s=read_timeout_s)


def token_client(url: str, token: str, *, read_timeout_s: float = HUB_READ_TIMEOUT_S) -> HttpClient:
    """A client that presents a login token to the hub at ``url``."""
    return HttpClient(url, key_header="Authorization", key=f"Bearer {token}", read_timeout_s=read_timeout_s)


def token_refused(settings: ServerSettings, error: HttpStatusError) -> FlipError:
    """What a 401 or 403 of the hub means to whoever set the token."""
    token = settings.hub_token.get_secret_value() if settings.hub_token else ""
    shown = f"sha256 {hashlib.sha256(token.encode()).hexdigest()[:6]}"
    return FlipError("E0413", token=shown, reason=error.detail or f"it answered {error.status_code}")
