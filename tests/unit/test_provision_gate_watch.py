"""What a SuperLink's gate makes of requests and answers: who is a second holder, and whose clock is off."""

from __future__ import annotations

import base64
import hashlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from flip_fl.provision.gate_watch import ACTIVATE, KEY, SIGNATURE, TIME, GateWatch
from flip_fl.reporting.site_news import SecondHolder, SiteClock, SiteNews, read
from tests.support.runs import wait_for

PULL = "/v1/fleet/pull-messages"
OWN = generate_private_key(SECP384R1())


def asked(
    key: EllipticCurvePrivateKey = OWN, ahead: float = 0.0, signer: EllipticCurvePrivateKey | None = None
) -> dict[str, str]:
    """A node's headers as Flower writes them."""
    moment = (datetime.now(UTC) + timedelta(seconds=ahead)).isoformat()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    signature = (signer or key).sign(moment.encode(), ECDSA(SHA256()))
    return {KEY: base64.b64encode(public).decode(), TIME: moment, SIGNATURE: base64.b64encode(signature).decode()}


@pytest.fixture
def watch(tmp_path: Path) -> GateWatch:
    line = OWN.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    return GateWatch(lambda: {hashlib.sha256(line).hexdigest(): "Trust_1"}, SiteNews(tmp_path, None))


def holders(state: Path) -> list[SecondHolder]:
    return read(state).second_holders


def clocks(state: Path) -> list[SiteClock]:
    return read(state).clocks


def test_a_refused_key_whose_holder_goes_on_is_a_copy(watch: GateWatch, tmp_path: Path) -> None:
    """Both addresses are told: the operator must find out which of the two is the trust's."""
    watch.saw(ACTIVATE, asked(), 200, "10.0.0.7")
    watch.saw(ACTIVATE, asked(), 412, "10.0.0.9")
    assert holders(tmp_path) == []
    watch.saw(PULL, asked(), 200, "10.0.0.7")
    wait_for(lambda: bool(holders(tmp_path)), "it is noted", 5)
    (one,) = holders(tmp_path)
    assert (one.slot, one.address, one.holder, one.times) == ("Trust_1", "10.0.0.9", "10.0.0.7", 1)


def test_a_site_that_comes_back_after_a_crash_is_no_copy(watch: GateWatch, tmp_path: Path) -> None:
    """It is refused until the SuperLink has noticed that its former process is gone; nobody must be alarmed."""
    watch.saw(PULL, asked(), 200, "10.0.0.7")
    watch.saw(ACTIVATE, asked(), 412, "10.0.0.7")
    watch.saw(ACTIVATE, asked(), 412, "10.0.0.7")
    watch.saw(ACTIVATE, asked(), 200, "10.0.0.7")
    watch.saw(PULL, asked(), 200, "10.0.0.7")
    watch.saw(PULL, asked(ahead=3600), 200, "10.0.0.7")
    wait_for(lambda: bool(clocks(tmp_path)), "what came later is noted", 5)
    assert holders(tmp_path) == []


def test_who_is_barred_is_known_by_the_key(tmp_path: Path) -> None:
    """The slot of an expired certificate is kept out, nobody else."""
    barred: set[str] = set()
    line = OWN.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    slots = {hashlib.sha256(line).hexdigest(): "Trust_1"}
    watch = GateWatch(lambda: slots, SiteNews(tmp_path, None), lambda: barred)
    assert not watch.bars(asked())
    barred.add("Trust_1")
    assert watch.bars(asked())
    assert not watch.bars(asked(generate_private_key(SECP384R1())))
    assert not watch.bars({})


def test_strangers_make_no_news(watch: GateWatch, tmp_path: Path) -> None:
    """Whoever reaches the port can send any header: neither an unknown key nor a foreign signature counts."""
    stranger = generate_private_key(SECP384R1())
    watch.saw(ACTIVATE, asked(stranger), 412, "10.0.0.66")
    watch.saw(PULL, asked(stranger, ahead=3600), 401, "10.0.0.66")
    watch.saw(PULL, asked(ahead=3600, signer=stranger), 401, "10.0.0.66")
    watch.saw(PULL, {KEY: "no base64 !", TIME: "soon", SIGNATURE: ""}, 401, None)
    watch.saw(PULL, {}, 401, None)
    time.sleep(1.1)  # claims are looked into once a second
    watch.saw(PULL, asked(ahead=-7200), 401, "10.0.0.7")
    wait_for(lambda: bool(clocks(tmp_path)), "the site's own word counts", 5)
    (one,) = clocks(tmp_path)
    assert (one.slot, round(one.ahead_s, -1)) == ("Trust_1", -7200)
    assert holders(tmp_path) == []
