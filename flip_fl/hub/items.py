"""A batch's body as items: all of them in one pass if nothing is wrong, else each by itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from flip_fl.hub.intake import Refusal
from flip_fl.hub.refusals import first_error
from flip_fl.wire import MAX_BATCH_ITEMS, BatchIn, BatchItem, EventItem, LogItem, MetricItem, MetricsItem, StatusItem

AnyItem = StatusItem | MetricItem | MetricsItem | LogItem | EventItem

_MAX_ID_CHARS = 64
# A clock outside of these years is broken, and some databases could not hold it.
_YEARS = range(2000, 2200)


class _Whole(BaseModel):
    items: Annotated[list[BatchItem], Field(max_length=MAX_BATCH_ITEMS)]


_ITEM: TypeAdapter[AnyItem] = TypeAdapter(BatchItem)


@dataclass(frozen=True)
class Refused:
    """An item that is refused; ``id`` is its id if it has one, else empty: answers do not echo input."""

    id: str
    refusal: Refusal


class NoBatch(Exception):
    """The body is no batch. ``errors`` are pydantic's."""

    def __init__(self, errors: Sequence[Mapping[str, Any]]) -> None:
        super().__init__("the body is no batch")
        self.errors = errors


def read_items(body: bytes) -> list[AnyItem | Refused]:
    """The items of a request's body, in order; one that cannot be read is ``Refused``. Raises ``NoBatch``."""
    try:
        items = [_checked(item) for item in _Whole.model_validate_json(body).items]
    except ValidationError:
        # The slower way says which item it is, and reads what the strict parser does not: half a surrogate pair.
        items = _one_by_one(body)
    if sum(facts_in(item) for item in items) > MAX_BATCH_ITEMS:
        raise NoBatch([{"type": "too_long", "loc": ("body", "items"), "msg": f"more than {MAX_BATCH_ITEMS} in all"}])
    return items


def facts_in(item: AnyItem | Refused) -> int:
    """How many facts ``item`` reports."""
    return len(item.labels) if isinstance(item, MetricsItem) else 1


def _one_by_one(body: bytes) -> list[AnyItem | Refused]:
    try:
        envelope = BatchIn.model_validate(json.loads(body))
    except ValidationError as error:
        raise NoBatch(error.errors(include_url=False)) from None
    except (ValueError, RecursionError):
        raise NoBatch([{"type": "json_invalid", "loc": ("body",), "msg": "JSON decode error"}]) from None
    return [_read(raw) for raw in envelope.items]


def _read(raw: Mapping[str, Any]) -> AnyItem | Refused:
    try:
        item = _ITEM.validate_python(raw)
    except ValidationError as error:
        return _refused(raw.get("id"), first_error(error.errors(include_url=False)))
    return _checked(item)


def _checked(item: AnyItem) -> AnyItem | Refused:
    if "id" not in item.model_fields_set:
        # A made-up id would let a copy in.
        return _refused(None, "id: Field required")
    if item.at.year not in _YEARS:
        return _refused(item.id, f"at: must lie in the years {_YEARS.start} to {_YEARS.stop - 1}")
    return item


def _refused(given: object, why: str) -> Refused:
    try:
        name = str(UUID(str(given)[:_MAX_ID_CHARS]))
    except ValueError:
        name = ""
    return Refused(name, Refusal("invalid", why))
