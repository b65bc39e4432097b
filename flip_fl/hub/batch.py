"""The batch route's work: many facts in one transaction, each with an outcome of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, assert_never
from uuid import UUID

from sqlalchemy import Table, insert
from sqlmodel import Session, SQLModel

from flip_fl.hub.bulk import insert_metrics
from flip_fl.hub.clients import Participant, participants
from flip_fl.hub.intake import Refusal, check_client, details_text, metric_row, take_status, unattributed
from flip_fl.hub.items import AnyItem, Refused
from flip_fl.hub.ledger import claim, mark_late
from flip_fl.hub.model_service import lock_model, log_text
from flip_fl.hub.silence import hear
from flip_fl.hub.tables import FlLog, Model, utc_now
from flip_fl.values import DEFAULT_X_LABEL, ModelStatus
from flip_fl.wire import BatchOut, EventItem, ItemOutcome, LogItem, MetricItem, MetricsItem, StatusItem

_LOGS: Table = SQLModel.metadata.tables[str(FlLog.__tablename__)]


def store_batch(
    model_id: UUID, items: Sequence[AnyItem | Refused], session: Session, *, unreachable_after: timedelta
) -> BatchOut:
    """Store what can be stored, commit, and say of each item in order what became of it.

    An item that could not be read, names an unknown client or belongs to no live model is refused by itself; an id
    that the ledger holds is a duplicate. A batch, an empty one too, shows that the FL server is there. Raises what
    the database raises, and then nothing is stored.
    """
    model = lock_model(model_id, session)
    if model is None or model.deleted:
        session.rollback()
        refusal = (
            Refusal("unknown_model", f"Model ID: {model_id} does not exist")
            if model is None
            else Refusal("deleted_model", f"Model ID: {model_id} is deleted")
        )
        results = [_refused(item.id, refusal) for item in items]
        return BatchOut(results=results, stop=model is not None)
    hear(model, session, unreachable_after)
    slots = {item.client for item in items if not isinstance(item, Refused | StatusItem) and item.client is not None}
    known = participants(model_id, slots, session)
    judged = [item if isinstance(item, Refused) else _judged(item, known, model_id) for item in items]
    ids = [[] if isinstance(item, Refused) else _ids(item) for item in judged]
    fresh = claim(model_id, [id_ for of_item in ids for id_ in of_item], session)
    store = _Store(model, known, session)
    results = []
    for item, of_item in zip(judged, ids, strict=True):
        if isinstance(item, Refused):
            results.append(_refused(item.id, item.refusal))
            continue
        new = [place for place, id_ in enumerate(of_item) if id_ in fresh]
        # A second item with one of these ids in the same batch is a copy like any other.
        fresh.difference_update(of_item)
        applied = store.add(item, new) if new else None
        results.append(ItemOutcome(id=str(item.id), outcome="stored" if new else "duplicate", applied=applied))
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

    def add(self, item: AnyItem, new: Sequence[int]) -> bool | None:
        """Take one judged item, of several metrics those at the places ``new``; for a status whether it was applied."""
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
            case MetricsItem():
                self._metrics(item, new)
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
        insert_metrics(self.metrics, self.session)
        if self.logs:
            self.session.execute(insert(_LOGS), self.logs)
        self.metrics, self.logs = [], []

    def _metrics(self, item: MetricsItem, new: Sequence[int]) -> None:
        x_labels, x_values = item.x_labels or (), item.x_values or ()
        first = metric_row(
            self.model.id,
            self.known[item.client],
            global_round=item.global_round,
            label="",
            result=0.0,
            x_label=DEFAULT_X_LABEL,
            x_value=float(item.global_round),
            at=item.at,
            task=item.task,
            stage=item.stage,
        )
        for place in new:
            row = first | {"label": item.labels[place], "result": item.results[place]}
            if x_labels and (x_label := x_labels[place]) is not None:
                row["x_label"] = x_label
            if x_values and (x_value := x_values[place]) is not None:
                row["x_value"] = x_value
            self.metrics.append(row)

    def _status(self, item: StatusItem) -> bool:
        # The sentence of the status stands after the rows that came before it.
        self.flush()
        applied = take_status(self.model, item.status, self.session, reason=item.reason, at=item.at)
        if not applied:
            mark_late(self.model.id, item.id, item.status, item.at, self.session)
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


def _ids(item: AnyItem) -> list[str]:
    return item.hex_ids if isinstance(item, MetricsItem) else [item.id.hex]


def _judged(item: AnyItem, known: Mapping[str, Participant], model_id: UUID) -> AnyItem | Refused:
    match item:
        case StatusItem():
            return item
        case LogItem(success=False) | LogItem(client=None) | EventItem(client=None):
            # A failure report is kept whoever it is from.
            return item
        case MetricItem() | MetricsItem() | LogItem() | EventItem():
            client = str(item.client)
            refusal = check_client(known.get(client), client, model_id)
            return item if refusal is None else Refused(str(item.id), refusal)
        case _:
            assert_never(item)


def _refused(given: UUID | str, refusal: Refusal) -> ItemOutcome:
    return ItemOutcome(id=str(given), outcome="refused", code=refusal.code, detail=refusal.detail)
