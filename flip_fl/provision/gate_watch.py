"""What a SuperLink's gate sees of nodes beside letting them through: two with one key, and clocks that are off.

A SuperLink refuses a key that is in use, and a request whose time is more than five minutes off; nobody but the node
that is refused is told. The gate stands before it, and sees whose request it was, from where, and the answer.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from http import HTTPStatus

from flip_fl.reporting.site_news import UNKNOWN, SiteNews

ACTIVATE = "/v1/fleet/activate-node"
KEY, TIME, SIGNATURE = "flwr-public-key", "flwr-timestamp", "flwr-signature"
LOOK_AGAIN_S = 3.0
# What is claimed with a wrong time is looked into, which takes a signature's check: a stranger's claims are few.
CHECK_EVERY_S = 1.0


class GateWatch:
    """Takes each answered request of a node; ``slots`` gives the slot of each registered key (as in ``nodes.json``).

    ``barred`` gives the slots that are not to be let through. A refusal counts once the holder has said something after
    it: whoever is refused may be the holder itself, started again after a crash and before the SuperLink has noticed.
    For the gate's one thread.
    """

    def __init__(
        self,
        slots: Callable[[], Mapping[str, str]],
        news: SiteNews,
        barred: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        self._slots = slots
        self._barred = barred
        self._news = news
        self._registered: dict[str, str] = {}
        self._known: dict[str, str] = {}
        self._looked = float("-inf")
        self._checked = float("-inf")
        self._refused: dict[str, set[str]] = {}

    def bars(self, headers: Mapping[str, str]) -> bool:
        """Whether a request with these headers is not to be let through, whoever has really sent it."""
        return self._slot(headers.get(KEY, "")) in self._barred()

    def saw(self, path: str, headers: Mapping[str, str], status: int, address: str | None) -> None:
        """A request to ``path`` from ``address`` was answered with ``status``."""
        slot = self._slot(headers.get(KEY, ""))
        if slot is None:
            return
        said = _time(headers.get(TIME, ""))
        if status == HTTPStatus.UNAUTHORIZED:
            if said is not None and self._signed(headers):
                self._news.clock(slot, said)
        elif path == ACTIVATE and status == HTTPStatus.PRECONDITION_FAILED:
            self._refused.setdefault(slot, set()).add(address or UNKNOWN)
        elif status < HTTPStatus.MULTIPLE_CHOICES:
            if said is not None:
                self._news.clock(slot, said)
            waiting = self._refused.pop(slot, set())
            if path != ACTIVATE:
                for each in sorted(waiting):
                    self._news.refused(slot, each, address or UNKNOWN)

    def _slot(self, key: str) -> str | None:
        if not key:
            return None
        if key in self._known:
            return self._known[key]
        digest = _digest(key)
        if digest is not None and digest not in self._registered and time.monotonic() - self._looked > LOOK_AGAIN_S:
            self._looked = time.monotonic()
            # Keys that came and went are not kept.
            self._registered, self._known = dict(self._slots()), {}
        slot = self._registered.get(digest or "")
        if slot is not None:
            self._known[key] = slot
        return slot

    def _signed(self, headers: Mapping[str, str]) -> bool:
        """Whether the time is the key's own word: the SuperLink has refused it, for whatever reason."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        if time.monotonic() - self._checked < CHECK_EVERY_S:
            return False
        self._checked = time.monotonic()
        try:
            key = load_pem_public_key(base64.b64decode(headers[KEY]))
            signature = base64.b64decode(headers[SIGNATURE])
            if not isinstance(key, EllipticCurvePublicKey):
                return False
            key.verify(signature, headers[TIME].encode("ascii"), ECDSA(SHA256()))
        except (KeyError, ValueError, InvalidSignature):
            return False
        return True


def _digest(key: str) -> str | None:
    """A key as the list of nodes has it: the SHA-256 of OpenSSH's line."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        read = load_pem_public_key(base64.b64decode(key))
        return hashlib.sha256(read.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)).hexdigest()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None


def _time(text: str) -> float | None:
    try:
        said = datetime.fromisoformat(text)
        return (said if said.tzinfo is not None else said.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
