"""A site of the local grid: what the grid asks of one, and one that runs its ClientApp in this process."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Error, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp

from flip_fl.app.failures import Failure
from flip_fl.flower.private import acting_as, envelope, message_from_bytes, message_to_bytes, new_id, number_message
from flip_fl.flower.protocol import FAILED, LOST, error_reason, get_task
from flip_fl.values import Task

logger = logging.getLogger(__name__)

CLOSE_GRACE_S = 5.0
_TASKS = {"evaluate": Task.VALIDATE.value}


class LocalSite(Protocol):
    """One site. Messages are answered one at a time, in the order in which they were submitted.

    ``poll`` never waits for another process. Where ``ready`` is true it may give an answer at once; else there is
    nothing new before one of ``handles`` (file descriptors with ``selectors`` events) can be used.
    """

    @property
    def slot(self) -> str: ...

    @property
    def node_id(self) -> int: ...

    @property
    def ready(self) -> bool: ...

    def handles(self) -> list[tuple[int, int]]: ...

    def submit(self, message: Message) -> None: ...

    def poll(self) -> Message | None: ...

    def stop(self) -> None:
        """Ask the running task to end early: what it watches as ``aborted`` becomes true, and stays so."""

    def dismiss(self) -> None:
        """Nothing more will be asked: a site that can end by itself does so while others are closed."""

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """End the site; a task that still runs after ``grace_s`` is killed where that is possible."""


class DirectSite:
    """A site whose ClientApp runs in this process, when it is polled: sites run one after another, never in threads.

    Messages pass through their serialised form, as they do on a network: what a ClientApp does to what it got is
    seen by nobody else, and what cannot travel fails here, too. ``stop`` cannot reach a task that runs in this very
    thread, and does nothing.
    """

    def __init__(
        self,
        slot: str,
        client_app: ClientApp,
        run_config: Mapping[str, UserConfigValue] | None = None,
        node_config: Mapping[str, UserConfigValue] | None = None,
        *,
        node_id: int | None = None,
    ) -> None:
        self.slot = slot
        self.node_id = new_id() if node_id is None else node_id
        self._app = client_app
        self._run_config = dict(run_config or {})
        self._node_config = {"slot": slot, **(node_config or {})}
        self._context: Context | None = None
        self._waiting: deque[bytes] = deque()

    @property
    def ready(self) -> bool:
        return bool(self._waiting)

    def handles(self) -> list[tuple[int, int]]:
        return []

    def submit(self, message: Message) -> None:
        self._waiting.append(message_to_bytes(message))

    def poll(self) -> Message | None:
        if not self._waiting:
            return None
        message = message_from_bytes(self._waiting.popleft())
        context = self._context_of(message.metadata.run_id)
        with acting_as(run_id=message.metadata.run_id, node_id=self.node_id, task_id=new_id()):
            return message_from_bytes(answer(self._app, message, context, self.slot))

    def stop(self) -> None:
        return

    def dismiss(self) -> None:
        return

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        self._waiting.clear()

    def _context_of(self, run_id: int) -> Context:
        # Flower keeps a node's state from message to message of one run, and no longer.
        if self._context is None or self._context.run_id != run_id:
            self._context = Context(run_id, self.node_id, dict(self._node_config), RecordDict(), dict(self._run_config))
        return self._context


def answer(app: ClientApp, message: Message, context: Context, slot: str, app_dir: Path | None = None) -> bytes:
    """The serialised reply of ``app`` to ``message``; an error reply where it raises or answers something else.

    The server gets type and place of an exception, without values; the whole of it goes to the site's own log.
    """
    sent = envelope(message)
    try:
        reply = _checked(app(message, context), sent)
        number_message(reply)
        return message_to_bytes(reply)
    except Exception as error:
        logger.exception("the ClientApp failed in a %s message", sent.metadata.message_type)
        return message_to_bytes(failed(sent, slot, error, app_dir))


def failed(message: Message, slot: str, error: BaseException, app_dir: Path | None = None) -> Message:
    """The error reply for an exception of the ClientApp, or of its import."""
    failure = Failure.of(error, slot=slot, task=_task(message), round=get_task(message.content).round, app_dir=app_dir)
    return _error(message, FAILED, error_reason(slot, failure=failure))


def lost(message: Message, slot: str, what_happened: str) -> Message:
    """The error reply of a site whose process is gone."""
    failure = Failure(
        slot=slot,
        task=_task(message),
        round=get_task(message.content).round,
        type="SiteLost",
        traceback=f"SiteLost: {what_happened}",
    )
    return _error(message, LOST, error_reason(slot, failure=failure))


def _checked(reply: object, sent: Message) -> Message:
    if not isinstance(reply, Message):
        raise TypeError(f"the ClientApp returned {type(reply).__name__}; it must return a Message")
    if reply.metadata.reply_to_message_id != sent.metadata.message_id:
        raise ValueError("the ClientApp's Message is no reply to the one it got; make it with reply_to=message")
    return reply


def _error(message: Message, code: int, reason: str) -> Message:
    reply = Message(Error(code, reason), reply_to=message)
    number_message(reply)
    return reply


def _task(message: Message) -> str:
    category = message.metadata.message_type.partition(".")[0]
    return _TASKS.get(category, category)
