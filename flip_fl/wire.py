"""Everything that crosses the wire between flip_fl and FLIP's services, as pydantic models.

The hub's three FL routes exist in two dialects ("older" and "current"); ``metric_body`` and ``log_body`` write one
body that both accept. The batch route is flip_fl's own: items carry ids made where the event happened.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from flip_fl.values import DEFAULT_X_LABEL, MAX_LABELS, ROUNDLESS_EVENTS, EventType, HubDialect, ModelStatus, SqlReason

MAX_DETAILS_BYTES = 8192
MAX_BATCH_ITEMS = 500
MAX_BATCH_BYTES = 1 << 20
IDEMPOTENCY_HEADER = "Idempotency-Key"

# Details that a service may answer with and that may be shown to a user, word for word. `{}` stands for what the
# caller itself sent (a model id, a slot).
DETAIL_MODEL_MISSING = "Model ID: {} does not exist"
DETAIL_CLIENT_UNRESOLVED = "FL client '{}' could not be resolved to a trust (model: {})"
DETAIL_TRUST_NOT_ASSOCIATED = "The trust: {} is not associated with model: {}"
DETAIL_COHORT_TOO_SMALL = "Cohort is too small for row-level data to be released."
DETAIL_NO_SNAPSHOT = "No approved cohort snapshot exists for this project."

DETAIL_SQL_REFUSED = "The SQL is refused: {}."
DETAIL_PROJECT_UNREADABLE = "The project id cannot be read."
DETAIL_COHORT_TOO_LARGE = "The cohort is too large to be sent."
DETAIL_NO_PROJECT = "No such project."
DETAIL_NO_STUDY = "No such study."
DETAIL_NO_DATA = "No such data in the study."


def _auth_details(boundary: str) -> tuple[str, str, str]:
    return (
        f"Not authenticated: {boundary} service key is missing.",
        f"{boundary[:1].upper()}{boundary[1:]} service auth not configured.",
        f"Invalid {boundary} service key.",
    )


HUB_AUTH_DETAILS = _auth_details("internal")
TRUST_AUTH_DETAILS = _auth_details("trust-internal")
FIXED_DETAILS = frozenset(
    {
        DETAIL_COHORT_TOO_SMALL,
        DETAIL_COHORT_TOO_LARGE,
        DETAIL_NO_SNAPSHOT,
        DETAIL_PROJECT_UNREADABLE,
        DETAIL_NO_PROJECT,
        DETAIL_NO_STUDY,
        DETAIL_NO_DATA,
        *(DETAIL_SQL_REFUSED.format(reason) for reason in SqlReason),
        *HUB_AUTH_DETAILS,
        *TRUST_AUTH_DETAILS,
    }
)


def new_event_id(now_ms: int | None = None) -> UUID:
    """A time-ordered event id: UUID version 7, 16 bytes (RFC 9562, section 5.7)."""
    millis = time.time_ns() // 1_000_000 if now_ms is None else now_ms
    value = (millis & (2**48 - 1)) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return UUID(int=value)


class Wire(BaseModel):
    """Facts on the wire: immutable; unknown fields are ignored, as both dialects demand."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)


# PostgreSQL cannot hold a NUL in any text.
_NO_NUL = r"^[^\x00]*$"
Slot = Annotated[str, Field(min_length=1, max_length=128, pattern=_NO_NUL)]
Round = Annotated[int, Field(ge=0, le=2**31 - 1)]
EventRound = Annotated[int, Field(ge=1, le=2**31 - 1)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
XLabel = Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_NUL)]
Label = Annotated[str, Field(min_length=1, max_length=255, pattern=_NO_NUL)]
ShortName = Annotated[str, Field(min_length=1, max_length=64, pattern=_NO_NUL)]


# -- the FL routes, as a hub reads them ---------------------------------------------------------------------------


class MetricIn(Wire):
    """``POST /model/{id}/metrics`` in either spelling. ``trust`` is the older one's client."""

    fl_client_name: Slot | None = None
    trust: Slot | None = None
    global_round: Round
    label: Label
    result: Finite
    x_value: Finite | None = None
    x_label: XLabel | None = None

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "global_round" not in data and "globalRound" in data:
            return {**data, "global_round": data["globalRound"]}
        return data

    @model_validator(mode="after")
    def _someone(self) -> MetricIn:
        if self.fl_client_name is None and self.trust is None:
            raise ValueError("fl_client_name (or trust) is required")
        return self

    def coordinate(self) -> tuple[str, float]:
        """The plot coordinate (x_label, x_value); by default the global round."""
        x_value = float(self.global_round) if self.x_value is None else self.x_value
        return self.x_label or DEFAULT_X_LABEL, x_value


class LogIn(Wire):
    """``POST /model/{id}/logs`` in either spelling: free text, or one typed event."""

    fl_client_name: Slot | None = None
    trust: Slot | None = None
    log: str | None = None
    event_type: ShortName | None = None
    global_round: EventRound | None = None
    details: dict[str, Any] | None = None
    success: bool = True

    @model_validator(mode="before")
    @classmethod
    def _older_spelling(cls, data: Any) -> Any:
        # An older sender's only reason to name a trust is a failure report of that client.
        if isinstance(data, Mapping) and data.get("trust") is not None and "fl_client_name" not in data:
            return data if "success" in data else {**data, "success": False}
        return data

    @field_validator("event_type")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("event_type must not be blank")
        return value

    @field_validator("details")
    @classmethod
    def _bounded(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            check_details(details_size(value))
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> LogIn:
        if (self.log is None) == (self.event_type is None):
            raise ValueError("exactly one of log and event_type is required")
        check_event(self.event_type, self.global_round)
        return self


def details_size(details: Mapping[str, Any]) -> int:
    """Bytes of ``details`` as compact JSON. Raises ``ValueError`` for NaN or infinity."""
    import json

    return len(json.dumps(details, separators=(",", ":"), allow_nan=False).encode())


def check_details(size: int) -> None:
    """Raises ``ValueError`` for an event's details of too many bytes, see ``details_size``."""
    if size > MAX_DETAILS_BYTES:
        raise ValueError(f"details must be at most {MAX_DETAILS_BYTES} bytes as JSON")


def check_event(event_type: str | None, global_round: int | None) -> None:
    """Raises ``ValueError`` for an event type that senders may not use or that lacks its round."""
    if event_type is None:
        return
    if event_type == EventType.QUEUE_POSITION:
        raise ValueError("QUEUE_POSITION is written by the hub itself")
    if global_round is None and event_type not in ROUNDLESS_EVENTS:
        # A hub's answer must not echo what was sent.
        raise ValueError("this event_type needs global_round")


# -- the FL routes, as a sender writes them -----------------------------------------------------------------------


def metric_body(
    dialect: HubDialect,
    *,
    client: str,
    global_round: int,
    label: str,
    result: float,
    x_value: float | None = None,
    x_label: str | None = None,
) -> dict[str, Any]:
    """One metric's body. Raises ``ValueError`` for a number that JSON cannot carry."""
    if not math.isfinite(result) or (x_value is not None and not math.isfinite(x_value)):
        raise ValueError("a metric must be finite")
    body: dict[str, Any] = {"label": label, "result": result}
    if dialect in (HubDialect.BOTH, HubDialect.OLDER):
        body |= {"trust": client, "globalRound": global_round}
    if dialect in (HubDialect.BOTH, HubDialect.CURRENT):
        body |= {"fl_client_name": client, "global_round": global_round}
        if x_value is not None:
            body["x_value"] = x_value
        if x_label is not None:
            body["x_label"] = x_label
    return body


def log_body(dialect: HubDialect, *, client: str | None, log: str, success: bool) -> dict[str, Any]:
    """One free-text row's body. Without a client only the current form exists."""
    if client is None:
        return {"log": log, "success": success}
    if dialect is HubDialect.OLDER:
        return {"trust": client, "log": log}
    body: dict[str, Any] = {"fl_client_name": client, "log": log, "success": success}
    if dialect is HubDialect.BOTH:
        body["trust"] = client
    return body


def event_body(
    *,
    event_type: str,
    client: str | None = None,
    global_round: int | None = None,
    details: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One typed event's body; only the current form exists."""
    body: dict[str, Any] = {"event_type": event_type}
    if client is not None:
        body["fl_client_name"] = client
    if global_round is not None:
        body["global_round"] = global_round
    if details is not None:
        body["details"] = dict(details)
    return body


# -- the batch route ----------------------------------------------------------------------------------------------


class _Item(Wire):
    id: UUID = Field(default_factory=new_event_id)
    at: datetime = Field(description="when it happened, at its origin (UTC)")


class StatusItem(_Item):
    """A change of the model's status; ``reason`` becomes a log row beside the fixed sentence."""

    kind: Literal["status"] = "status"
    status: ModelStatus
    reason: str | None = None


class MetricItem(_Item):
    """One measured number, stamped at the site with the round, task and stage it was measured in."""

    kind: Literal["metric"] = "metric"
    client: Slot
    global_round: Round
    label: Label
    result: Finite
    x_value: Finite | None = None
    x_label: XLabel | None = None
    task: ShortName | None = None
    stage: ShortName | None = None


class MetricsItem(_Item):
    """Numbers that ``client`` measured together, a metric each; ``labels``, ``results`` and the others go together.

    The first one's id is ``id``; those of the others count on from it in the last four of its bytes, which must not run
    over (a counter as of RFC 9562, section 6.2).
    """

    kind: Literal["metrics"] = "metrics"
    client: Slot
    global_round: Round
    task: ShortName | None = None
    stage: ShortName | None = None
    labels: Annotated[list[Label], Field(min_length=1, max_length=MAX_BATCH_ITEMS)]
    results: list[Finite]
    x_values: list[Finite | None] | None = None
    x_labels: list[XLabel | None] | None = None

    @model_validator(mode="after")
    def _together(self) -> MetricsItem:
        count = len(self.labels)
        columns = (self.results, self.x_values, self.x_labels)
        if any(column is not None and len(column) != count for column in columns):
            raise ValueError("there must be as many results, x_values and x_labels as labels")
        if (self.id.int & 0xFFFFFFFF) + count > 1 << 32:
            raise ValueError("the last four bytes of id must leave room to count in")
        return self

    @property
    def hex_ids(self) -> list[str]:
        """The id of each metric, as 32 hexadecimal digits: objects of all of them would cost more than storing them."""
        first = self.id.int
        return [f"{first + place:032x}" for place in range(len(self.labels))]

    def metrics(self) -> list[MetricItem]:
        """Each metric as an item of its own."""
        shared = {name: getattr(self, name) for name in ("at", "client", "global_round", "task", "stage")}
        nothing: list[None] = [None] * len(self.labels)
        columns = (
            map(UUID, self.hex_ids),
            self.labels,
            self.results,
            self.x_values or nothing,
            self.x_labels or nothing,
        )
        return [
            MetricItem.model_construct(id=id_, label=label, result=result, x_value=x, x_label=axis, **shared)
            for id_, label, result, x, axis in zip(*columns, strict=True)
        ]


class LogItem(_Item):
    """A free-text row. ``success=False`` is a failure report."""

    kind: Literal["log"] = "log"
    client: Slot | None = None
    log: str
    success: bool = True
    global_round: Round | None = None


class EventItem(_Item):
    """A typed event; the hub words it."""

    kind: Literal["event"] = "event"
    event_type: ShortName
    client: Slot | None = None
    global_round: EventRound | None = None
    details: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _allowed(self) -> EventItem:
        check_event(self.event_type, self.global_round)
        if self.details is not None:
            check_details(details_size(self.details))
        return self


Item = Annotated[StatusItem | MetricItem | LogItem | EventItem, Field(discriminator="kind")]
BatchItem = Annotated[StatusItem | MetricItem | MetricsItem | LogItem | EventItem, Field(discriminator="kind")]


class BatchIn(Wire):
    """``POST /model/{id}/events``: items are judged one by one, so they are read one by one.

    Each metric of a ``metrics`` item counts as one of the at most ``MAX_BATCH_ITEMS``.
    """

    items: Annotated[list[dict[str, Any]], Field(max_length=MAX_BATCH_ITEMS)]


class ItemOutcome(Wire):
    """What became of one item. ``applied`` is false for a status that came too late to count.

    ``metrics`` of which one is new are ``stored``: those that the hub had are not stored again.
    """

    id: str
    outcome: Literal["stored", "duplicate", "refused"]
    code: str | None = None
    detail: str | None = None
    applied: bool | None = None


class BatchOut(Wire):
    """One outcome per item, in order; ``stop`` when the model was stopped at the hub."""

    results: list[ItemOutcome]
    stop: bool = False


# -- from a site to its FL server ---------------------------------------------------------------------------------

Count = Annotated[int, Field(ge=0, le=10**9)]


LabelCount = Annotated[int, Field(ge=0, le=10**12)] | Literal["withheld"]


class SiteFacts(Wire):
    """What a site says of its own work on a task, with the task's result.

    ``seconds``: how long it worked, by a clock that only runs forward; ``began`` and ``ended`` are by the clock on its
    wall. ``labels``: how often each label is among the examples that it trained on, small numbers withheld.
    """

    seconds: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)] | None = None
    began: AwareDatetime | None = None
    ended: AwareDatetime | None = None
    labels: Annotated[dict[ShortName, LabelCount], Field(max_length=MAX_LABELS)] = {}

    @classmethod
    def read(cls, raw: object) -> SiteFacts | None:
        """``raw`` as facts; None where it is none: what a site says of itself is never a reason to lose its reports."""
        try:
            return raw if isinstance(raw, cls) else cls.model_validate(raw)
        except (ValidationError, TypeError, RecursionError):
            return None


class SiteBatch(Wire):
    """What a site reports of one of its tasks, all of it or a part, inside an engine's messages.

    The task's reports are numbered at the site, from 0; ``items`` (as JSON types, not looked into) are the numbers
    ``first``, ``first`` + 1, …. ``task_id`` is made there, anew for each task. ``made``: how many reports the task has
    made; it is said with the task's result only, as are ``facts``.
    """

    task_id: UUID = Field(default_factory=new_event_id)
    task: ShortName
    stage: ShortName | None = None
    round: Round = 0
    first: Count = 0
    made: Count | None = None
    facts: Annotated[SiteFacts | None, BeforeValidator(SiteFacts.read)] = None
    items: list[Any] = Field(default_factory=list)


# -- the trust's services -----------------------------------------------------------------------------------------


class CohortRequest(Wire):
    """``POST /cohort/dataframe``."""

    encrypted_project_id: str
    query: str


class ImageRequest(Wire):
    """``POST /download/images/{net}``."""

    encrypted_central_hub_project_id: str
    accession_id: str


class UploadRequest(Wire):
    """``PUT /upload/images/{net}``; ``files`` are relative to the net's upload folder."""

    encrypted_central_hub_project_id: str
    accession_id: str
    scan_id: str
    resource_id: str
    files: list[str]
