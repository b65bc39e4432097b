"""What our executor and our server components say to each other inside NVFLARE's task replies and events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nvflare.apis.shareable import Shareable
from pydantic import TypeAdapter, ValidationError

from flip_fl.app.runner import Failure
from flip_fl.wire import LogItem, MetricItem

EVENTS_HEADER = "flip_events"
FAILURE_HEADER = "flip_failure"
NUM_EXAMPLES_META = "flip_num_examples"
LIVE_EVENT = "flip_live_events"

REPORTER_ID = "flip_server_event_handler"
MAX_ITEMS_PER_REPLY = 100_000

SiteItem = MetricItem | LogItem
_SITE_ITEM: TypeAdapter[SiteItem] = TypeAdapter(SiteItem)


@dataclass(frozen=True)
class Received:
    """A site's items after the server's checks, and what was refused, as counts by reason."""

    items: list[SiteItem]
    refused: dict[str, int]


def put_events(shareable: Shareable, events: Iterable[Mapping[str, Any]]) -> None:
    """Attach wire items (JSON-able mappings with ids) to a reply or an event."""
    shareable.set_header(EVENTS_HEADER, json.dumps(list(events), allow_nan=False))


def get_events(shareable: Shareable, slot: str) -> Received:
    """Read a site's items. ``slot`` is the authenticated peer: an item that names another client is refused."""
    text = shareable.get_header(EVENTS_HEADER)
    if text is None:
        return Received([], {})
    items: list[SiteItem] = []
    refused: dict[str, int] = {}

    def refuse(reason: str, count: int = 1) -> None:
        refused[reason] = refused.get(reason, 0) + count

    try:
        raw = json.loads(text)
    except (TypeError, ValueError):
        return Received([], {"unreadable": 1})
    if not isinstance(raw, list):
        return Received([], {"unreadable": 1})
    if len(raw) > MAX_ITEMS_PER_REPLY:
        refuse("too many in one reply", len(raw) - MAX_ITEMS_PER_REPLY)
    for entry in raw[:MAX_ITEMS_PER_REPLY]:
        try:
            item = _SITE_ITEM.validate_python(entry)
        except ValidationError:
            refuse("malformed")
            continue
        if item.client != slot:
            refuse("names another client")
        else:
            items.append(item)
    return Received(items, refused)


def put_failure(shareable: Shareable, failure: Failure) -> None:
    """Attach a client's failure report (values already removed) to its reply."""
    shareable.set_header(FAILURE_HEADER, json.dumps(asdict(failure)))


def get_failure(shareable: Shareable) -> Failure | None:
    """The failure report of a reply, or None when there is none that can be read."""
    text = shareable.get_header(FAILURE_HEADER)
    if text is None:
        return None
    try:
        return Failure(**json.loads(text))
    except (TypeError, ValueError):
        return None
