"""What our executor and our server components say to each other inside NVFLARE's task replies and events."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nvflare.apis.fl_constant import ServerCommandKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from pydantic import TypeAdapter, ValidationError

from flip_fl.app.failures import Failure
from flip_fl.wire import SiteBatch

BATCH_HEADER = "flip_reports"
FAILURE_HEADER = "flip_failure"
NUM_EXAMPLES_META = "flip_num_examples"
LIVE_EVENT = "flip_live_events"

REPORTER_ID = "flip_server_event_handler"
MAX_FAILURE_CHARS = 256_000

_FAILURE = TypeAdapter(Failure)
_NOTE_META = "flip_task"


@dataclass(frozen=True)
class TaskNote:
    """What a task is about beyond its round: the job's stage, a model that has a name, whether it is reported."""

    stage: str | None = None
    model: str | None = None
    quiet: bool = False


def put_note(note: TaskNote) -> dict[str, str]:
    """``note`` as the meta data of what is sent to a site."""
    return {_NOTE_META: json.dumps(asdict(note))}


def get_note(meta: Mapping[str, Any]) -> TaskNote:
    """The note in the meta data of what the server has sent; an empty one where another controller sent it."""
    text = meta.get(_NOTE_META)
    return TaskNote(**json.loads(text)) if isinstance(text, str) else TaskNote()


def sender(result: Shareable, fl_ctx: FLContext) -> str:
    """The client that sent a task's result: by its token, which NVFLARE has checked, not by what it says of itself.

    Only where a server-side filter has replaced the result is the peer context believed.
    """
    client = result.get_header(ServerCommandKey.FL_CLIENT)
    if client is not None:
        return str(client.name)
    peer = fl_ctx.get_peer_context()
    return str(peer.get_identity_name(default="")) if peer is not None else ""


def put_batch(shareable: Shareable, batch: SiteBatch) -> None:
    """Attach a site's reports to a reply or an event."""
    facts = batch.model_dump(mode="json", exclude={"items"})
    shareable.set_header(BATCH_HEADER, json.dumps({**facts, "items": batch.items}, allow_nan=False))


def get_batch(shareable: Shareable) -> SiteBatch | None:
    """A site's reports, its items unread; None when there are none. Raises ``ValueError`` for what cannot be read."""
    text = shareable.get_header(BATCH_HEADER)
    if text is None:
        return None
    try:
        return SiteBatch.model_validate(json.loads(text))
    except (TypeError, RecursionError) as error:
        raise ValueError(type(error).__name__) from None


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
