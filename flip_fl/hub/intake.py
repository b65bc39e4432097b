"""What the hub does with one reported fact, whichever route brought it. Nothing here commits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlmodel import Session

from flip_fl.dashboard.story import FL_SERVER
from flip_fl.hub.clients import Participant
from flip_fl.hub.model_service import add_log, apply_status, log_text
from flip_fl.hub.tables import Model
from flip_fl.hub.words import STATUS_SENTENCES
from flip_fl.values import ModelStatus
from flip_fl.wire import DETAIL_CLIENT_UNRESOLVED, DETAIL_TRUST_NOT_ASSOCIATED


@dataclass(frozen=True)
class Refusal:
    """Why a fact is not stored: a code for programs and the contract's words."""

    code: str
    detail: str


def take_status(
    model: Model,
    status: ModelStatus,
    session: Session,
    *,
    by: str = FL_SERVER,
    reason: str | None = None,
    at: datetime | None = None,
) -> bool:
    """Apply a status to a locked model, with its log rows; False when it came too late, and then no row is written.

    A change (not a repeat) writes the status's fixed sentence; a reason becomes a row of its own beside it.
    """
    taken, changed = apply_status(model, status, session, by=by, reason=log_text(reason), at=at)
    if not taken:
        return False
    rows = [STATUS_SENTENCES.get(status)] if changed else []
    rows.append(reason)
    for text in rows:
        if text is not None:
            add_log(model.id, text, session, session, success=status.is_success, status=status, at=at)
    return True


def check_client(participant: Participant | None, claimed: str, model_id: UUID) -> Refusal | None:
    """Why a metric or event of the client ``claimed`` is refused; None if its trust takes part in the model."""
    if participant is None:
        return Refusal("unknown_client", DETAIL_CLIENT_UNRESOLVED.format(claimed, model_id))
    if not participant.associated:
        return Refusal("client_not_associated", DETAIL_TRUST_NOT_ASSOCIATED.format(participant.trust_name, model_id))
    return None


def unattributed(participant: Participant | None, claimed: str, text: str) -> str:
    """A failure report of somebody who cannot be named, as the model-level row in which it is kept."""
    why = "unknown FL kit slot" if participant is None else "not associated with this model"
    return f"[unattributed client '{claimed}' — {why}] {text}"


def metric_row(
    model_id: UUID,
    participant: Participant,
    *,
    global_round: int,
    label: str,
    result: float,
    x_label: str,
    x_value: float,
    at: datetime,
    task: str | None = None,
    stage: str | None = None,
) -> dict[str, Any]:
    """One metric as a row of ``fl_metrics``."""
    return {
        "model_id": model_id,
        "trust_id": participant.trust_id,
        "fl_client_name": participant.slot,
        "global_round": global_round,
        "label": label,
        "result": result,
        "x_label": x_label,
        "x_value": x_value,
        "task": task,
        "stage": stage,
        "occurred_at": at,
    }


def details_text(details: Mapping[str, Any] | None) -> str | None:
    """An event's details as they are stored."""
    return None if details is None else json.dumps(details, separators=(",", ":"))
