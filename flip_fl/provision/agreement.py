"""Where the hub's slot table, the kits that were made, and who is connected do not agree. Facts in, findings out."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from flip_fl.provision.authority import Ledger
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import KitRole, slot_number
from flip_fl.provision.verify import WARN_BEFORE
from flip_fl.values import natural_key

_SHOWN = 8


@dataclass(frozen=True)
class HubSlot:
    """A kit slot at the hub; ``trust`` is who holds it. A retired one is given to nobody again."""

    name: str
    trust: str | None = None
    retired: bool = False


@dataclass(frozen=True)
class Sides:
    """What each side says. ``revoked``: whom the hub wants refused; ``connected`` None: nobody was asked."""

    kits: Ledger
    hub: Sequence[HubSlot]
    revoked: Collection[str]
    connected: Collection[str] | None = None


def compare(sides: Sides, folder: Path, now: datetime) -> list[Finding]:
    """One finding for each kind of disagreement, or one that there is none; ``folder`` is where the kits were made."""
    where = "" if folder == Path("kits") else f" --kits {shlex.quote(str(folder))}"
    found = [*_missing(sides), *_unknown(sides), *_revocations(sides, where), *_ends(sides, where, now)]
    found += _connected(sides)
    held = sum(slot.trust is not None for slot in sides.hub)
    if not [finding for finding in found if finding.state != "ok"]:
        made = len(sides.kits.sites)
        what = f"{len(sides.hub)} slots at the hub, {held} held; kits for {made}, {len(sides.kits.revoked)} kept out"
        found.insert(0, Finding("slots", "ok", what))
    return found


def _missing(sides: Sides) -> Iterator[Finding]:
    made = set(sides.kits.sites)
    lacking = [slot for slot in sides.hub if slot.trust is not None and slot.name not in made]
    if lacking:
        told = _names(f"{slot.name} ({slot.trust})" for slot in lacking)
        highest = max(slot_number(slot.name) or 0 for slot in lacking)
        last = max((slot_number(name) or 0 for name in made), default=0)
        fix = f"flip-fl provision --add {max(highest - last, 1)}"
        yield Finding(
            "slots", "fail", f"held at the hub, and without a kit: {told}", "these trusts cannot take part", fix
        )


def _unknown(sides: Sides) -> Iterator[Finding]:
    known = {slot.name for slot in sides.hub}
    strange = [name for name in sides.kits.sites if name not in known and name not in sides.kits.revoked]
    if strange:
        why = "what they report is refused: the hub knows no such client"
        highest = max(slot_number(name) or 0 for name in strange)
        fix = f"flip-fl hub slot seed {highest}"
        yield Finding("slots", "fail", f"kits of slots that the hub does not have: {_names(strange)}", why, fix)


def _revocations(sides: Sides, where: str) -> Iterator[Finding]:
    wanted = set(sides.revoked) | {slot.name for slot in sides.hub if slot.retired}
    for name in sorted(wanted & set(sides.kits.sites) - set(sides.kits.revoked), key=natural_key):
        why = "whoever holds its kit still connects, under a name that the hub has taken away"
        what = f"{name} is revoked at the hub, and its kit is not"
        yield Finding("revocations", "fail", what, why, f"flip-fl kit revoke {name}{where}")
    for slot in sides.hub:
        if slot.name in sides.kits.revoked and slot.trust is not None:
            why = "its kit is kept out, so that this trust cannot take part"
            fix = f"flip-fl hub slot release {slot.name}, then give the trust another one"
            yield Finding("revocations", "fail", f"{slot.name} is kept out, and {slot.trust} still holds it", why, fix)


def _ends(sides: Sides, where: str, now: datetime) -> Iterator[Finding]:
    for issued in sides.kits.issued:
        if issued.role is KitRole.SITE and issued.name in sides.kits.revoked:
            continue
        left = issued.valid_to - now
        if left <= WARN_BEFORE:
            over = left < timedelta(0)
            told = f"expired on {issued.valid_to:%Y-%m-%d}" if over else f"{left.days} days are left"
            fix = f"flip-fl kit renew {shlex.quote(issued.name)}{where}"
            state: Literal["fail", "warn"] = "fail" if over else "warn"
            yield Finding("validity", state, f"the certificate of {issued.name}: {told}", None, fix)


def _connected(sides: Sides) -> Iterator[Finding]:
    if sides.connected is None:
        return
    held = {slot.name for slot in sides.hub if slot.trust is not None}
    names = sorted(sides.connected, key=natural_key)
    yield Finding("connected", "ok", _names(names) if names else "no site")
    strange = [name for name in names if name not in held]
    if strange:
        why = "what they report belongs to no trust, and is refused"
        fix = f"flip-fl hub slot assign TRUST, or keep it out: flip-fl kit revoke {strange[0]}"
        yield Finding("connected", "warn", f"connected, and held by nobody: {_names(strange)}", why, fix)


def _names(names: Collection[str] | Iterator[str]) -> str:
    told = list(names)
    more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    return ", ".join(told[:_SHOWN]) + more
