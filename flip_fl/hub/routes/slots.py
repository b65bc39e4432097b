"""Kit slots and revocations, for those who provision a federation."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, HTTPException
from pydantic import BaseModel, Field
from sqlmodel import col, select

from flip_fl.errors import FlipError
from flip_fl.hub import admin, kit_slots
from flip_fl.hub.access import Admin, HubOperator, acting
from flip_fl.hub.routes.dependencies import CONFLICT, Name, Reading, Writing
from flip_fl.hub.tables import FlNet

router = APIRouter(tags=["slots"])


class SlotOut(BaseModel):
    """The slot that a trust holds."""

    slot: str


class SlotRow(BaseModel):
    """One kit slot. ``trust`` null: free, or retired."""

    slot: str
    number: int
    trust: str | None
    assignedAt: datetime | None
    retired: bool


class SlotCount(BaseModel):
    """``POST /slots``."""

    count: int = Field(ge=1, le=1000)


class RevocationOut(BaseModel):
    """Credentials that must not connect any more."""

    slot: str
    fingerprint: str | None
    revokedAt: datetime


@router.get("/slots")
def read_slots(_who: HubOperator, session: Reading) -> list[SlotRow]:
    """Every slot, retired ones too, in number order."""
    return _rows(admin.list_slots(session))


@router.post("/slots")
def seed_slots(wanted: SlotCount, who: Admin, session: Writing) -> list[SlotRow]:
    """Make sure that slots 1 to ``count`` exist; they are only ever added. Answers all of them."""
    return _rows(admin.seed_slots(acting(session, who), wanted.count))


@router.post("/trusts/{trust_id}/slot", responses=CONFLICT)
def assign_slot(trust_id: UUID, who: Admin, session: Writing) -> SlotOut:
    """The slot the trust holds, the lowest free one if it held none. 404 unknown trust, 409 no slot free."""
    return SlotOut(slot=kit_slots.assign(trust_id, acting(session, who)))


@router.delete("/slots/{slot}", status_code=204)
def release_slot(slot: Name, who: Admin, session: Writing, retire: bool = True) -> None:
    """Free the slot and revoke its credentials. 404 for an unknown slot."""
    try:
        kit_slots.release(slot, acting(session, who), retire=retire)
    except FlipError as error:
        raise HTTPException(404, "no such kit slot") from error


@router.get("/nets/{net}/revocations")
def read_revocations(net: Name, _who: HubOperator, session: Reading) -> list[RevocationOut]:
    """What the net must refuse, oldest first. 404 for an unknown net."""
    if session.exec(select(FlNet.id).where(col(FlNet.name) == net)).first() is None:
        raise HTTPException(404, "no such net")
    return [
        RevocationOut(slot=row.slot_name, fingerprint=row.fingerprint, revokedAt=row.revoked_at)
        for row in kit_slots.revocations(session)
    ]


def _rows(slots: list[admin.SlotInfo]) -> list[SlotRow]:
    return [
        SlotRow(slot=s.name, number=s.number, trust=s.trust, assignedAt=s.assigned_at, retired=s.retired) for s in slots
    ]
