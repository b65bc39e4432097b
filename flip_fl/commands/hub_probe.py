"""Is the hub there, is it a hub, does it take our key? Asked of the hub itself, answered in words that name the fix."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

from flip_fl.commands.origins import Origin, Origins, fingerprint, masked
from flip_fl.errors import FlipError
from flip_fl.http import HttpClient, HttpConnectionError, HttpStatusError
from flip_fl.wire import HUB_AUTH_DETAILS

URL = "FLIP_API_INTERNAL_URL"
KEY = "INTERNAL_SERVICE_KEY"
TRUST_KEY = "TRUST_INTERNAL_SERVICE_KEY"
KEY_HASH = "INTERNAL_SERVICE_KEY_HASH"
HEADER = "INTERNAL_SERVICE_KEY_HEADER"
DEFAULT_HEADER = "X-Internal-Service-Key"
TIMEOUT_S = 5.0
# No model has this id: what is asked of it is refused after the key was judged, and nothing is written.
_NO_MODEL = UUID(int=0)


@dataclass(frozen=True)
class HubFound:
    """A hub that answered: its base URL and how far its clock is ahead of ours, in seconds (None: not told)."""

    url: str
    skew_s: float | None


def probe_address(origins: Origins) -> HubFound:
    """Ask ``<base>/health`` whether a hub is there.

    Raises ``FlipError`` E0401 without an address, E0402 for an address that is not a hub's (with the right one, if
    it can be found), E0403 when nobody answers.
    """
    origin = _wanted(origins, URL)
    found, answer = _health(origin.value)
    if found is not None:
        return found
    if isinstance(answer, HttpConnectionError):
        # An https address of an http port, or the reverse, is told by trying the other.
        for url in _others(origin.value):
            if _health(url)[0] is not None:
                schemes = f"{urlsplit(origin.value).scheme} gets no answer there, {urlsplit(url).scheme} does"
                raise _not_a_hub(origin, url, schemes)
        raise _no_answer(origin, answer)
    for url in _others(origin.value):
        if _health(url)[0] is not None:
            here, there = (f"{urlsplit(u).path.rstrip('/')}/health" for u in (origin.value, url))
            evidence = f"{here} is {answer}, {there} is 200"
            raise _not_a_hub(origin, url, evidence)
    raise _not_a_hub(origin, None, f"{urlsplit(origin.value).path.rstrip('/')}/health is {answer}")


def probe_key(origins: Origins, fix: str | None = None) -> str:
    """Ask the hub whether it takes our key; returns the key's description. ``fix`` replaces the usual advice.

    Raises ``FlipError`` E0401 without key or address, E0411 when the hub refuses the key (with the reason, where it
    can be proved on this machine), E0402 and E0403 as ``probe_address``.
    """
    url, key = _wanted(origins, URL), _wanted(origins, KEY)
    header = origins.get(HEADER)
    client = HttpClient(
        url.value, key_header=header.value if header else DEFAULT_HEADER, key=key.value, read_timeout_s=TIMEOUT_S
    )
    described = origins.describe(KEY)
    try:
        # An empty log row: refused as 422 once the key is accepted, by every hub, and never stored.
        client.request(
            "POST", ("model", str(_NO_MODEL), "logs"), route="/model/{id}/logs", json={}, timeout_s=TIMEOUT_S
        )
    except HttpStatusError as error:
        if error.status_code == 422:
            return described
        if error.status_code in (401, 403):
            raise FlipError(
                "E0411", key=origins.told(KEY), reason=refusal_reason(origins, error.detail), fix=fix
            ) from None
        raise _not_a_hub(url, None, f"{urlsplit(url.value).path}/model/…/logs is {error.status_code}") from None
    except HttpConnectionError as error:
        raise _no_answer(url, error) from None
    finally:
        client.close()
    raise _not_a_hub(url, None, "it accepted an empty log row")


def refusal_reason(origins: Origins, detail: str | None) -> str:
    """Why a key may be refused: only what can be proved here, else what the hub itself said."""
    key, trust, stored = origins.get(KEY), origins.get(TRUST_KEY), origins.get(KEY_HASH)
    if key and trust and hmac.compare_digest(key.value, trust.value):
        return "it equals TRUST_INTERNAL_SERVICE_KEY of this shell"
    if key and stored:
        digest = hashlib.sha256(key.value.encode()).hexdigest()
        if not hmac.compare_digest(digest, stored.value.lower()):
            return f"its hash is not the hub's INTERNAL_SERVICE_KEY_HASH ({stored.source}, begins {stored.value[:6]})"
    if key and key.value != key.value.strip():
        return "it begins or ends with a blank"
    if detail == HUB_AUTH_DETAILS[1]:
        return "the hub has no key: INTERNAL_SERVICE_KEY_HASH is not set there"
    if detail == HUB_AUTH_DETAILS[0]:
        header = origins.get(HEADER)
        return f"the hub looks in another header than {header.value if header else DEFAULT_HEADER}"
    return "the hub keeps the hash of another key"


def key_problems(origins: Origins) -> str | None:
    """What is wrong with the keys of this shell without asking anybody; None when nothing is."""
    key, trust = origins.get(KEY), origins.get(TRUST_KEY)
    if key and trust and hmac.compare_digest(key.value, trust.value):
        return f"{KEY} equals {TRUST_KEY} (sha256 {fingerprint(key.value)}): one of them is the other's"
    if key and trust and origins.get("FLIP_ROLE") is None:
        return f"{KEY} and {TRUST_KEY} are both set and FLIP_ROLE is not"
    return None


def _wanted(origins: Origins, name: str) -> Origin:
    origin = origins.get(name)
    if origin is None:
        place = f"{origins.file} or the environment" if origins.file else "the environment"
        raise FlipError("E0401", role="FL server", names=name, place=place)
    return origin


def _health(base: str) -> tuple[HubFound | None, int | str | HttpConnectionError]:
    """The hub at ``base``, if it is one; else the status it answered with, or how it did not answer."""
    client = HttpClient(base, read_timeout_s=TIMEOUT_S)
    try:
        response = client.request("GET", ("health",), route="/health", timeout_s=TIMEOUT_S)
    except HttpStatusError as error:
        return None, error.status_code
    except HttpConnectionError as error:
        return None, error
    finally:
        client.close()
    try:
        document = json.loads(response.content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return None, "no hub's answer (a page?)"
    # Our hub answers /health at its root, too, where its API is not.
    if not urlsplit(base).path.rstrip("/").endswith("/api") and _health_is_below(base):
        return None, "all there is (the API is below /api)"
    return HubFound(base, _skew(response.headers.get("Date"))), 200


def _health_is_below(base: str) -> bool:
    client = HttpClient(base, read_timeout_s=TIMEOUT_S)
    try:
        client.request("GET", ("api", "health"), route="/api/health", timeout_s=TIMEOUT_S)
    except (HttpStatusError, HttpConnectionError):
        return False
    finally:
        client.close()
    return True


def _others(base: str) -> list[str]:
    """Addresses that people mean when they write ``base``."""
    parts = urlsplit(base.rstrip("/"))
    schemes = (parts.scheme, "http" if parts.scheme == "https" else "https")
    paths = dict.fromkeys([parts.path, f"{parts.path}/api", "/api"])
    return [
        url
        for scheme in schemes
        for path in paths
        if (url := urlunsplit((scheme, parts.netloc, path, "", ""))) != base.rstrip("/")
    ]


def _not_a_hub(origin: Origin, right: str | None, evidence: str) -> FlipError:
    fix = f"export {URL}={right}" if origin.source == "env" else f"set {URL}={right} in {origin.source}"
    if right is None:
        fix = f"set {URL} to the hub's base URL (it ends in /api)"
    return FlipError("E0402", url=masked(origin.value), evidence=f"{evidence}; {_told(origin)}", suggestion=masked(fix))


def _no_answer(origin: Origin, error: HttpConnectionError) -> FlipError:
    told = str(error)
    problem = "timed out" if "Timeout" in told else "TLS failed" if "SSL" in told else "connection refused or reset"
    return FlipError("E0403", url=masked(origin.value), problem=problem, safe=_told(origin))


def _told(origin: Origin) -> str:
    hidden = f", overrides {', '.join(origin.overrides)}" if origin.overrides else ""
    return f"value from {origin.source}{hidden}"


def _skew(date: str | None) -> float | None:
    if not date:
        return None
    try:
        return (parsedate_to_datetime(date) - datetime.now(UTC)).total_seconds()
    except ValueError:
        return None
