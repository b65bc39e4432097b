"""Which trust stands behind the name that an FL client goes by."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlmodel import Session, col, select

from flip_fl.hub.tables import FlKitSlot, ModelTrustIntersect, Trust


@dataclass(frozen=True)
class Participant:
    """The trust that holds a slot, and whether it takes part in the model asked about."""

    slot: str
    trust_id: UUID
    trust_name: str
    associated: bool


def holder(fl_client_name: str, session: Session) -> Trust | None:
    """The trust that holds exactly this slot; None for an unknown and for an unassigned one."""
    return session.exec(
        select(Trust)
        .join(FlKitSlot, col(FlKitSlot.assigned_to_trust_id) == col(Trust.id))
        .where(col(FlKitSlot.slot_name) == fl_client_name)
    ).first()


def participants(model_id: UUID, slots: Collection[str], session: Session) -> dict[str, Participant]:
    """The slots that somebody holds, of those named, in one query."""
    if not slots:
        return {}
    rows = session.exec(
        select(FlKitSlot.slot_name, Trust.id, Trust.name, ModelTrustIntersect.model_id)
        .join(Trust, col(FlKitSlot.assigned_to_trust_id) == col(Trust.id))
        .outerjoin(
            ModelTrustIntersect,
            (col(ModelTrustIntersect.trust_id) == col(Trust.id)) & (col(ModelTrustIntersect.model_id) == model_id),
        )
        .where(col(FlKitSlot.slot_name).in_(slots))
    )
    return {
        slot: Participant(slot, trust_id, name, association is not None) for slot, trust_id, name, association in rows
    }


def older_participant(model_id: UUID, trust: str, session: Session) -> Participant | None:
    """Who an older sender means by ``trust``: the holder of a slot of that name, else the trust of that name."""
    by_slot = participants(model_id, [trust], session).get(trust)
    if by_slot is not None:
        return by_slot
    found = session.exec(
        select(Trust.id, Trust.name, FlKitSlot.slot_name)
        .outerjoin(FlKitSlot, col(FlKitSlot.assigned_to_trust_id) == col(Trust.id))
        .where(col(Trust.name) == trust)
    ).first()
    if found is None:
        return None
    trust_id, name, slot = found
    association = session.get(ModelTrustIntersect, (model_id, trust_id))
    return Participant(slot or trust, trust_id, name, association is not None)
