"""What our executor and our server components say to each other inside NVFLARE's task replies and events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nvflare.apis.fl_constant import ServerCommandKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from pydantic import TypeAdapter, ValidationError

from flip_fl.app.failures import Failure

EVENTS_HEADER = "flip_events"
FAILURE_HEADER = "flip_failure"
NUM_EXAMPLES_META = "flip_num_examples"
LIVE_EVENT = "flip_live_events"

REPORTER_ID = "flip_server_event_handler"
MAX_ITEMS_PER_REPLY = 100_000
MAX_FAILURE_CHARS = 256_000

_FAILURE = TypeAdapter(Failure)


@dataclass(frozen=True)
class Received:
    """A site's items, unread but for whom they name, and what was refused, as counts by reason."""

    items: list[dict[str, Any]]
    refused: dict[str, int]


def sender(result: Shareable, fl_ctx: FLContext) -> str:
    """The client that sent a task's result: by its token, which NVFLARE has checked, not by what it says of itself.

    Only where a server-side filter has replaced the result is the peer context believed.
    """
    client = result.get_header(ServerCommandKey.FL_CLIENT)
    if client is not None:
        return str(client.name)
    peer = fl_ctx.get_peer_context()
    return str(peer.get_identity_name(default="")) if peer is not None else ""


def put_events(shareable: Shareable, events: Iterable[Mapping[str, Any]]) -> None:
    """Attach wire items (JSON-able mappings with ids) to a reply or an event."""
    shareable.set_header(EVENTS_HEADER, json.dumps(list(events), allow_nan=False))


def get_events(shareable: Shareable, slot: str) -> Received:
    """A site's items. ``slot`` is the authenticated peer: an item that names another client is refused."""
    text = shareable.get_header(EVENTS_HEADER)
    if text is None:
        return Received([], {})
    try:
        raw = json.loads(text)
    except (TypeError, ValueError):
        raw = None
    if not isinstance(raw, list):
        return Received([], {"they cannot be read": 1})
    kept = raw[:MAX_ITEMS_PER_REPLY]
    items = [entry for entry in kept if isinstance(entry, dict) and entry.get("client") == slot]
    refused = {
        f"more than {MAX_ITEMS_PER_REPLY} in one message": len(raw) - len(kept),
        f"they name another client than {slot}": len(kept) - len(items),
    }
    return Received(items, {reason: count for reason, count in refused.items() if count})


def put_failure(shareable: Shareable, failure: Failure) -> None:
    """Attach a client's failure report (values already removed) to its reply."""
    shareable.set_header(FAILURE_HEADER, json.dumps(asdict(failure)))


def get_failure(shareable: Shareable) -> Failure | None:
    """The failure report of a reply, or None when there is none that can be read."""
    text = shareable.get_header(FAILURE_HEADER)
    if not isinstance(text, str) or len(text) > MAX_FAILURE_CHARS:
        return None
    try:
        return _FAILURE.validate_json(text)
    except ValidationError:
        return None
