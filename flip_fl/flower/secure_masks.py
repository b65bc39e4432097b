"""The masks of secure aggregation: a site's secrets in one round, and what the server puts together of their shares.

The protocol is that of Bonawitz et al. 2017 (double masking), as Flower's SecAgg+ with every site a neighbour of every
other. Key agreement, encryption and Shamir's shares are Flower's. The masks are not: Flower folds a seed to 32 bits
before it draws from numpy's Mersenne Twister, and of a pair's seed, which is text in base64, 28 of them are left: few
enough to be tried by whoever has the masked update. Here a mask is the key stream of AES-256 in counter mode.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from pydantic import ConfigDict, Field

from flip_fl.aggregate.fixed_point import Vector
from flip_fl.app.secure import threshold
from flip_fl.flower.private import (
    bytes_to_private_key,
    bytes_to_public_key,
    combine_shares,
    create_shares,
    decrypt,
    encrypt,
    generate_key_pairs,
    generate_shared_key,
    private_key_to_bytes,
    public_key_to_bytes,
    share_keys_plaintext_concat,
    share_keys_plaintext_separate,
)
from flip_fl.flower.secure_messages import AllKeys, Ask, PublicKeys, Said, Sealed, Shares
from flip_fl.values import natural_key

SEED_BYTES = 32
_CHUNK = 2**17


class MaskError(ValueError):
    """What somebody sent cannot be part of the round; the text names the site that sent it where it is known."""


class Secrets(Said):
    """What a site remembers between the messages of a round. ``done``: the last step, each can be taken once."""

    model_config = ConfigDict(frozen=False)

    done: str
    round: int
    slot: str
    mask_key: bytes
    seal_key: bytes
    public: PublicKeys
    seed: bytes = b""
    keys: dict[str, PublicKeys] = Field(default_factory=dict)
    # (of the seed, of the key), by whose they are
    shares: dict[str, tuple[bytes, bytes]] = Field(default_factory=dict)


# -- at a site ----------------------------------------------------------------------------------------------------


def begin(slot: str, number: int) -> Secrets:
    """New keys, for one round."""
    masks, seals = generate_key_pairs(), generate_key_pairs()
    public = PublicKeys(masks=public_key_to_bytes(masks[1]), seals=public_key_to_bytes(seals[1]))
    return Secrets(
        done="keys",
        round=number,
        slot=slot,
        mask_key=private_key_to_bytes(masks[0]),
        seal_key=private_key_to_bytes(seals[0]),
        public=public,
    )


def seal(own: Secrets, number: int, told: AllKeys) -> Sealed:
    """Shares of the own seed and key, sealed to each other site. Raises ``MaskError``."""
    _step(own, number, "keys", "shares")
    keys = {slot: told.keys[slot] for slot in sorted(told.keys, key=natural_key)}
    least = threshold(len(keys))
    if len(keys) < least:
        raise MaskError(f"{len(keys)} sites take part; with fewer than {least} each would learn of the others")
    if keys.get(own.slot) != own.public:
        raise MaskError("the server has told other keys as this site's")
    everybodys = [key for each in keys.values() for key in (each.masks, each.seals)]
    if len(set(everybodys)) != len(everybodys):
        raise MaskError("two sites have the same public key")
    own.keys, own.seed = keys, os.urandom(SEED_BYTES)
    of_seed = create_shares(own.seed, least, len(keys))
    of_key = create_shares(own.mask_key, least, len(keys))
    places = {slot: place for place, slot in enumerate(keys)}
    sealed = {}
    for slot, place in places.items():
        if slot == own.slot:
            own.shares[slot] = (of_seed[place], of_key[place])
            continue
        plain = share_keys_plaintext_concat(places[own.slot], place, of_seed[place], of_key[place])
        sealed[slot] = encrypt(_agreed(own.seal_key, keys[slot].seals, slot), plain)
    return Sealed(shares=sealed)


def mask(own: Secrets, number: int, given: Sealed, vector: Vector) -> None:
    """Mask ``vector`` in place, once the others' shares are there and open. Raises ``MaskError``.

    The secrets are used then, whatever comes of it: two updates behind one mask would tell their difference.
    """
    _step(own, number, "shares", "masked")
    places = {slot: place for place, slot in enumerate(own.keys)}
    others = set(given.shares)
    if own.slot in others or not others <= set(own.keys) or len(others) + 1 < threshold(len(own.keys)):
        raise MaskError("the server has not given enough of the sites' shares")
    for slot, token in given.shares.items():
        try:
            plain = decrypt(_agreed(own.seal_key, own.keys[slot].seals, slot), token)
        except InvalidToken:
            raise MaskError(f"the shares of {slot} cannot be opened") from None
        source, target, of_seed, of_key = share_keys_plaintext_separate(plain)
        if (source, target) != (places[slot], places[own.slot]):
            raise MaskError(f"the shares of {slot} are not from there to here")
        own.shares[slot] = (of_seed, of_key)
    add_mask(vector, own.seed)
    for slot in others:
        pair = pair_seed(own.mask_key, own.keys[slot].masks, slot)
        add_mask(vector, pair, subtract=places[own.slot] > places[slot])
    # Neither is needed any more: of both the other sites have shares.
    own.seed = own.mask_key = own.seal_key = b""


def tell(own: Secrets, number: int, asked: Ask) -> Shares:
    """For each site a share of its seed or one of its key, never both. Raises ``MaskError``."""
    _step(own, number, "masked", "told")
    returned, lost = set(asked.returned), set(asked.lost)
    if returned & lost or returned | lost != set(own.shares) or own.slot not in returned:
        raise MaskError("the server asks for shares of other sites than those of the round")
    if len(returned) < threshold(len(own.keys)):
        raise MaskError(f"the server asks for the sum of {len(returned)} updates, which is too few")
    told = Shares(
        seeds={slot: own.shares[slot][0] for slot in returned}, keys={slot: own.shares[slot][1] for slot in lost}
    )
    own.shares = {}
    return told


def _step(own: Secrets, number: int, before: str, after: str) -> None:
    if own.done != before or own.round != number:
        raise MaskError(f"the server asks for '{after}' of round {number} after '{own.done}' of round {own.round}")
    own.done = after


# -- at the server ------------------------------------------------------------------------------------------------


def check_keys(keys: PublicKeys) -> None:
    """Raises ``MaskError`` for what are no public keys of this protocol."""
    for key in (keys.masks, keys.seals):
        _public(key)


def unmask(total: Vector, keys: Mapping[str, PublicKeys], told: Iterable[Shares], asked: Ask) -> None:
    """Take out of the sum of what ``asked.returned`` sent all masks, in place. ``keys``: of all whose keys were told.

    Raises ``MaskError`` where the shares that the sites told do not fit.
    """
    parts = list(told)[: threshold(len(keys))]
    places = {slot: place for place, slot in enumerate(sorted(keys, key=natural_key))}
    for slot in asked.returned:
        seed = _combined([part.seeds[slot] for part in parts], slot)
        if len(seed) != SEED_BYTES:
            raise MaskError(f"the shares of the seed of {slot} do not fit")
        add_mask(total, seed, subtract=True)
    for lost in asked.lost:
        key = _combined([part.keys[lost] for part in parts], lost)
        for slot in asked.returned:
            add_mask(total, pair_seed(key, keys[slot].masks, slot), subtract=places[slot] < places[lost])


def _combined(shares: list[bytes], slot: str) -> bytes:
    if len({share[:4] for share in shares}) != len(shares) or len({len(share) for share in shares}) != 1:
        raise MaskError(f"the shares of {slot} do not fit")
    try:
        return combine_shares(shares)
    except (ValueError, IndexError):
        raise MaskError(f"the shares of {slot} do not fit") from None


# -- masks --------------------------------------------------------------------------------------------------------


def pair_seed(private: bytes, public: bytes, slot: str) -> bytes:
    """The seed that two sites have in common; ``slot`` is whose public key it is. Raises ``MaskError``."""
    return base64.urlsafe_b64decode(_agreed(private, public, slot))


def add_mask(vector: Vector, seed: bytes, *, subtract: bool = False) -> None:
    """Add the mask of ``seed`` to ``vector`` modulo 2⁶⁴, in place. A seed is used for one vector, so its nonce is 0."""
    stream = Cipher(AES(seed), CTR(bytes(16))).encryptor()
    zeros = bytes(8 * min(_CHUNK, vector.size))
    for start in range(0, vector.size, _CHUNK):
        part = vector[start : start + _CHUNK]
        drawn = np.frombuffer(stream.update(zeros[: 8 * part.size]), dtype="<u8")
        (np.subtract if subtract else np.add)(part, drawn, out=part)


def _agreed(private: bytes, public: bytes, slot: str) -> bytes:
    try:
        return generate_shared_key(bytes_to_private_key(private), _public(public))
    except MaskError:
        raise MaskError(f"the public key of {slot} cannot be used") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MaskError(f"the shares of the key of {slot} do not fit") from None


def _public(key: bytes) -> ec.EllipticCurvePublicKey:
    try:
        found: Any = bytes_to_public_key(key)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise MaskError("its public keys cannot be read") from None
    if not isinstance(found, ec.EllipticCurvePublicKey) or not isinstance(found.curve, ec.SECP384R1):
        raise MaskError("its public keys are of another kind")
    return found
