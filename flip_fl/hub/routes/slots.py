"""Kit slots and revocations, for those who provision a federation."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel
from sqlmodel import col, select

from flip_fl.errors import FlipError
from flip_fl.hub import kit_slots
from flip_fl.hub.routes.dependencies import Reading, Writing
from flip_fl.hub.tables import FlNet

router = APIRouter()


class SlotOut(BaseModel):
    """The slot that a trust holds."""

    slot: str


class RevocationOut(BaseModel):
    """Credentials that must not connect any more."""

    slot: str
    fingerprint: str | None
    revokedAt: datetime


@router.post("/trusts/{trust_id}/slot")
def assign_slot(trust_id: UUID, session: Writing) -> SlotOut:
    """The slot the trust holds, the lowest free one if it held none. 404 unknown trust, 409 no slot free."""
    try:
        return SlotOut(slot=kit_slots.assign(trust_id, session))
    except FlipError as error:
        raise HTTPException(409 if error.code == "E1004" else 404, error.what) from error


@router.delete("/slots/{slot}", status_code=204)
def release_slot(slot: str, session: Writing, retire: bool = True) -> None:
    """Free the slot and revoke its credentials. 404 for an unknown slot."""
    try:
        kit_slots.release(slot, session, retire=retire)
    except FlipError as error:
        raise HTTPException(404, "no such kit slot") from error


@router.get("/nets/{net}/revocations")
def read_revocations(net: str, session: Reading) -> list[RevocationOut]:
    """What the net must refuse, oldest first. 404 for an unknown net."""
    if session.exec(select(FlNet.id).where(col(FlNet.name) == net)).first() is None:
        raise HTTPException(404, "no such net")
    return [
        RevocationOut(slot=row.slot_name, fingerprint=row.fingerprint, revokedAt=row.revoked_at)
        for row in kit_slots.revocations(session)
    ]
