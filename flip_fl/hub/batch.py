"""The batch route's work: many facts in one transaction, each with an outcome of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, assert_never
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import insert
from sqlmodel import Session

from flip_fl.hub.clients import Participant, participants
from flip_fl.hub.intake import Refusal, check_client, details_text, metric_row, take_status, unattributed
from flip_fl.hub.ledger import claim, mark_late
from flip_fl.hub.model_service import lock_model, log_text
from flip_fl.hub.refusals import first_error
from flip_fl.hub.tables import FlLog, FlMetric, Model, utc_now
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from flip_fl.wire import BatchOut, EventItem, Item, ItemOutcome, LogItem, MetricItem, StatusItem

_ITEMS: TypeAdapter[StatusItem | MetricItem | LogItem | EventItem] = TypeAdapter(Item)
_AnyItem = StatusItem | MetricItem | LogItem | EventItem
_MAX_ID_CHARS = 64
# A clock outside of these years is broken, and some databases could not hold it.
_YEARS = range(2000, 2200)


def store_batch(model_id: UUID, raw_items: Sequence[Mapping[str, Any]], session: Session) -> BatchOut:
    """Store what can be stored, commit, and say of each item in order what became of it.

    An item that cannot be read, names an unknown client or belongs to no live model is refused by itself; an id
    that the ledger holds is a duplicate. Raises what the database raises, and then nothing is stored.
    """
    read = [_read(raw) for raw in raw_items]
    model = lock_model(model_id, session)
    if model is None or model.deleted:
        session.rollback()
        refusal = (
            Refusal("unknown_model", f"Model ID: {model_id} does not exist")
            if model is None
            else Refusal("deleted_model", f"Model ID: {model_id} is deleted")
        )
        results = [_refused(raw, refusal) for raw in raw_items]
        return BatchOut(results=results, stop=model is not None)
    slots = {item.client for item in read if not isinstance(item, Refusal | StatusItem) and item.client is not None}
    known = participants(model_id, slots, session)
    judged = [item if isinstance(item, Refusal) else _judge(item, known, model_id) or item for item in read]
    fresh = claim(model_id, [(item.id, item.at) for item in judged if not isinstance(item, Refusal)], session)
    store = _Store(model, known, session)
    results = []
    for raw, item in zip(raw_items, judged, strict=True):
        if isinstance(item, Refusal):
            results.append(_refused(raw, item))
        elif item.id in fresh:
            # A second item with this id in the same batch is a copy like any other.
            fresh.discard(item.id)
            results.append(ItemOutcome(id=str(item.id), outcome="stored", applied=store.add(item)))
        else:
            results.append(ItemOutcome(id=str(item.id), outcome="duplicate"))
    store.flush()
    stop = model.status is ModelStatus.STOPPED
    session.commit()
    return BatchOut(results=results, stop=stop)


@dataclass
class _Store:
    """Rows on their way into the tables: metrics and logs go in by many, in the order in which they came."""

    model: Model
    known: Mapping[str, Participant]
    session: Session
    received: datetime = field(default_factory=utc_now)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    logs: list[dict[str, Any]] = field(default_factory=list)

    def add(self, item: _AnyItem) -> bool | None:
        """Take one judged item; for a status whether it was applied, else None."""
        match item:
            case StatusItem():
                return self._status(item)
            case MetricItem():
                self.metrics.append(
                    metric_row(
                        self.model.id,
                        self.known[item.client],
                        global_round=item.global_round,
                        label=item.label,
                        result=item.result,
                        x_label=item.x_label or DEFAULT_X_LABEL,
                        x_value=float(item.global_round) if item.x_value is None else item.x_value,
                        at=item.at,
                        task=item.task,
                        stage=item.stage,
                    )
                )
            case LogItem():
                self._log(item)
            case EventItem():
                self._row(
                    item,
                    self._participant(item.client),
                    event_type=item.event_type,
                    details=details_text(item.details),
                )
            case _:
                assert_never(item)
        return None

    def flush(self) -> None:
        if self.metrics:
            self.session.execute(insert(FlMetric), self.metrics)
        if self.logs:
            self.session.execute(insert(FlLog), self.logs)
        self.metrics, self.logs = [], []

    def _status(self, item: StatusItem) -> bool:
        # The sentence of the status stands after the rows that came before it.
        self.flush()
        applied = take_status(self.model, item.status, self.session, reason=item.reason, at=item.at)
        if not applied:
            mark_late(self.model.id, item.id, item.status, self.session)
        return applied

    def _log(self, item: LogItem) -> None:
        participant = self._participant(item.client)
        text = item.log
        if item.client is not None and (participant is None or not participant.associated):
            text, participant = unattributed(participant, item.client, text), None
        self._row(item, participant, log=log_text(text), success=item.success)

    def _participant(self, client: str | None) -> Participant | None:
        return None if client is None else self.known.get(client)

    def _row(self, item: LogItem | EventItem, participant: Participant | None, **facts: Any) -> None:
        self.logs.append(
            {
                "model_id": self.model.id,
                "log_date": self.received,
                "occurred_at": item.at,
                "success": True,
                "trust_id": participant.trust_id if participant else None,
                "fl_client_name": participant.slot if participant else None,
                "global_round": item.global_round,
                "log": None,
                "event_type": None,
                "details": None,
                "status": None,
            }
            | facts
        )


def _read(raw: Mapping[str, Any]) -> _AnyItem | Refusal:
    if "id" not in raw:
        # A made-up id would let a copy in.
        return Refusal("invalid", "id: Field required")
    try:
        item = _ITEMS.validate_python(dict(raw))
    except ValidationError as error:
        return Refusal("invalid", first_error(error.errors(include_url=False)))
    if item.at.year not in _YEARS:
        return Refusal("invalid", f"at: must lie in the years {_YEARS.start} to {_YEARS.stop - 1}")
    at = item.at.replace(tzinfo=UTC) if item.at.tzinfo is None else item.at.astimezone(UTC)
    return item.model_copy(update={"at": at})


def _judge(item: _AnyItem, known: Mapping[str, Participant], model_id: UUID) -> Refusal | None:
    match item:
        case StatusItem():
            return None
        case LogItem(success=False) | LogItem(client=None) | EventItem(client=None):
            # A failure report is kept whoever it is from.
            return None
        case MetricItem() | LogItem() | EventItem():
            client = str(item.client)
            return check_client(known.get(client), client, model_id)
        case _:
            assert_never(item)


def _refused(raw: Mapping[str, Any], refusal: Refusal) -> ItemOutcome:
    # The id is quoted only where it is one: anything else is input, which answers do not echo.
    try:
        name = str(UUID(str(raw.get("id"))[:_MAX_ID_CHARS]))
    except ValueError:
        name = ""
    return ItemOutcome(id=name, outcome="refused", code=refusal.code, detail=refusal.detail)
