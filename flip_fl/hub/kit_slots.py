"""Kit slots: the names of FL participants, minted before anyone owns them."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func, update
from sqlmodel import Session, col, select

from flip_fl.errors import FlipError
from flip_fl.hub import audit
from flip_fl.hub.once import insert_once
from flip_fl.hub.tables import FlKitSlot, SlotRevocation, Trust, utc_now
from flip_fl.values import natural_key

SLOT_PREFIX = "Trust_"


def seed(count: int, session: Session) -> list[str]:
    """Make sure that slots 1 to ``count`` exist and commit; returns the names that are new, in number order.

    Slots are only ever added. Raises ``FlipError`` E1005 unless ``count`` is at least 1.
    """
    if count < 1:
        raise FlipError(
            "E1005", kind="net", field="the number of slots", value=count, expected="1 or more", suggestion="--slots 2"
        )
    made = _mint(range(1, count + 1), session)
    if made:
        audit.record(session, "slots.seeded", made[-1], slots=made)
    session.commit()
    return made


def assign(trust_id: UUID, session: Session) -> str:
    """Claim the lowest-numbered free slot for a trust, commit, and return its name.

    A trust that holds a slot keeps it and gets its name. Two calls at once never get the same slot. Raises
    ``FlipError`` E1002 for an unknown trust and E1004 when no slot is free.
    """
    # Locking the trust keeps two registrations of one trust from claiming two slots.
    trust = session.exec(select(Trust).where(col(Trust.id) == trust_id).with_for_update(key_share=True)).first()
    if trust is None:
        session.rollback()
        raise FlipError("E1002", kind="trust", name=trust_id, known="", suggestion="flip-fl hub trust add NAME")
    held = session.exec(select(FlKitSlot.slot_name).where(col(FlKitSlot.assigned_to_trust_id) == trust_id)).first()
    if held is not None:
        session.commit()
        return held
    while True:
        free = session.exec(
            select(FlKitSlot.slot_name)
            .where(col(FlKitSlot.assigned_to_trust_id).is_(None), col(FlKitSlot.retired_at).is_(None))
            .order_by(col(FlKitSlot.slot_number))
            .limit(1)
        ).first()
        if free is None:
            count = session.exec(select(func.count()).select_from(FlKitSlot)).one()
            session.rollback()
            raise FlipError("E1004", count=count, suggestion=f"flip-fl hub init --slots {count + 1}")
        claimed = session.exec(
            update(FlKitSlot)
            .where(col(FlKitSlot.slot_name) == free, col(FlKitSlot.assigned_to_trust_id).is_(None))
            .values(assigned_to_trust_id=trust_id, assigned_at=utc_now())
        )
        # Nothing claimed: another registration was faster with this one, so look for the next.
        if claimed.rowcount == 1:
            audit.record(session, "slot.assigned", free, trust=trust.name)
            session.commit()
            return free


def record_kit(slot_name: str, fingerprint: str, session: Session) -> None:
    """Remember the fingerprint of the credentials issued for a slot, and commit. Raises ``FlipError`` E1002."""
    _find(slot_name, session).fingerprint = fingerprint
    audit.record(session, "slot.kit_issued", slot_name, fingerprint=fingerprint)
    session.commit()


def release(slot_name: str, session: Session, *, retire: bool = True) -> str | None:
    """Free a slot, revoke its credentials and commit; returns the name of a fresh slot when one was made.

    A slot whose kit was issued is retired and a fresh one seeded, because an engine that can only refuse a *name*
    could not tell the old holder from a new one. ``retire=False`` is for engines that revoke the key itself.
    A slot without a kit is just free again. Raises ``FlipError`` E1002 for an unknown slot.
    """
    slot = _find(slot_name, session)
    fresh = None
    if slot.fingerprint is not None:
        session.add(SlotRevocation(slot_name=slot_name, fingerprint=slot.fingerprint))
        slot.fingerprint = None
        if retire:
            slot.retired_at = utc_now()
            fresh = _mint_next(session)
    if slot.assigned_to_trust_id is not None or fresh is not None:
        held = None if slot.assigned_to_trust_id is None else str(slot.assigned_to_trust_id)
        audit.record(session, "slot.released", slot_name, trust=held, successor=fresh)
    slot.assigned_to_trust_id = None
    slot.assigned_at = None
    session.commit()
    return fresh


def revocations(session: Session) -> list[SlotRevocation]:
    """Every revocation, oldest first. They concern every net, because a slot's name is the same in all."""
    return list(session.exec(select(SlotRevocation).order_by(col(SlotRevocation.id))))


def _mint(numbers: range, session: Session) -> list[str]:
    rows = [{"slot_name": f"{SLOT_PREFIX}{number}", "slot_number": number} for number in numbers]
    return sorted(insert_once(FlKitSlot, rows, "slot_name", session), key=natural_key)


def _mint_next(session: Session) -> str:
    while True:
        highest = session.exec(select(func.max(col(FlKitSlot.slot_number)))).one() or 0
        made = _mint(range(highest + 1, highest + 2), session)
        # Nothing made: somebody else minted that number meanwhile.
        if made:
            return made[0]


def _find(slot_name: str, session: Session) -> FlKitSlot:
    slot = session.exec(select(FlKitSlot).where(col(FlKitSlot.slot_name) == slot_name).with_for_update()).first()
    if slot is None:
        session.rollback()
        raise FlipError("E1002", kind="kit slot", name=slot_name, known="", suggestion="flip-fl hub slot list")
    return slot
