"""What ``doctor --federation`` finds: each way in which hub, kits and the running federation can disagree."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flip_fl.provision.agreement import HubSlot, Sides, compare
from flip_fl.provision.authority import Issued, Ledger
from flip_fl.provision.kit import KitRole
from flip_fl.provision.project import make_federation

NOW = datetime(2026, 6, 1, tzinfo=UTC)
AGREE = [HubSlot("Trust_1", "Guys"), HubSlot("Trust_2", "Kings"), HubSlot("Trust_3")]


def issued(name: str, role: KitRole = KitRole.SITE, days: int = 200) -> Issued:
    return Issued(
        name=name,
        role=role,
        serial="1",
        sha256="ab",
        valid_from=NOW - timedelta(days=300),
        valid_to=NOW + timedelta(days=days),
    )


def ledger(count: int, *, days: int = 200, **revoked: datetime) -> Ledger:
    federation = make_federation(net="oncology", host="fl.example.org", slots=count)
    kits = [issued("server", KitRole.SERVER), *(issued(f"Trust_{n}", days=days) for n in range(1, count + 1))]
    return Ledger(federation=federation, server_certificate="", issued=kits, revoked=revoked)


def found(sides: Sides, folder: str = "kits") -> list[tuple[str, str, str, str | None]]:
    return [(each.name, each.state, each.what, each.fix) for each in compare(sides, Path(folder), NOW)]


def test_where_all_agree_one_line_says_so() -> None:
    """A spare slot with a kit is no fault."""
    told = found(Sides(ledger(3), AGREE, (), ("Trust_1", "Trust_2")))
    assert told == [
        ("slots", "ok", "3 slots at the hub, 2 held; kits for 3, 0 kept out", None),
        ("connected", "ok", "Trust_1, Trust_2", None),
    ]


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        (
            Sides(ledger(1), AGREE, ()),
            ("slots", "fail", "held at the hub, and without a kit: Trust_2 (Kings)", "flip-fl provision --add 1"),
        ),
        (
            Sides(ledger(12), AGREE, ()),
            (
                "slots",
                "fail",
                "kits of slots that the hub does not have: Trust_4, Trust_5, Trust_6, Trust_7, Trust_8, Trust_9, "
                "Trust_10, Trust_11 and 1 more",
                "flip-fl hub slot seed 12",
            ),
        ),
        (
            Sides(ledger(3), AGREE, ("Trust_2",)),
            ("revocations", "fail", "Trust_2 is revoked at the hub, and its kit is not", "flip-fl kit revoke Trust_2"),
        ),
        (
            Sides(ledger(3), [*AGREE[:2], HubSlot("Trust_3", retired=True)], ()),
            ("revocations", "fail", "Trust_3 is revoked at the hub, and its kit is not", "flip-fl kit revoke Trust_3"),
        ),
        (
            Sides(ledger(3, Trust_2=NOW), AGREE, ()),
            (
                "revocations",
                "fail",
                "Trust_2 is kept out, and Kings still holds it",
                "flip-fl hub slot release Trust_2, then give the trust another one",
            ),
        ),
        (
            Sides(ledger(3), AGREE, (), ("Trust_3",)),
            (
                "connected",
                "warn",
                "connected, and held by nobody: Trust_3",
                "flip-fl hub slot assign TRUST, or keep it out: flip-fl kit revoke Trust_3",
            ),
        ),
    ],
    ids=["no kit", "no slot", "revoked at the hub", "retired at the hub", "kept out and held", "held by nobody"],
)
def test_each_disagreement_is_told_with_what_mends_it(sides: Sides, expected: tuple[str, str, str, str | None]) -> None:
    """Protects from a trust that waits for ever, and from one that gets in under a name taken away from it."""
    assert expected in found(sides)


def test_a_certificate_s_end_is_told_before_and_after_it_comes() -> None:
    """A renewal takes days to travel; a revoked site's certificate may end."""
    (first, *_) = found(Sides(ledger(1, days=20), [HubSlot("Trust_1", "Guys")], ()), "other kits")
    assert first == (
        "validity",
        "warn",
        "the certificate of Trust_1: 20 days are left",
        "flip-fl kit renew Trust_1 --kits 'other kits'",
    )
    (first, *_) = found(Sides(ledger(1, days=-2), [HubSlot("Trust_1", "Guys")], ()))
    assert first[1:3] == ("fail", "the certificate of Trust_1: expired on 2026-05-30")
    told = found(Sides(ledger(1, days=-2, Trust_1=NOW), [HubSlot("Trust_1", retired=True)], ()))
    assert [line[1] for line in told] == ["ok"]
