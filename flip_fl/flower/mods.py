"""Mods around a ClientApp, ours or another: exceptions without values, a limit of size, the place for privacy filters.

A mod sees neither what happens while the app is imported nor a process that dies.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable, Mod

from flip_fl.app.failures import Failure
from flip_fl.app.full_text import keep_full_text
from flip_fl.flower.claim import claimed_slot, site_facts
from flip_fl.flower.protocol import FAILED, TOO_LARGE, error_reason, get_report, get_task

logger = logging.getLogger("flip_fl.flower")

MAX_REPLY_BYTES = 2 * 10**9  # Flower's serialisation ends at 2 GiB
MAX_REPLY_KEY = "max-reply-bytes"


@dataclass(frozen=True)
class FilterContext:
    """What a privacy filter may want to know of the reply that it filters.

    ``sent``: the arrays that the server had sent (empty where it sent none). ``message_type``: ``train``,
    ``evaluate`` or ``query``, with the action behind a point where there is one.
    """

    slot: str
    round: int
    message_type: str
    sent: ArrayRecord
    run_config: Mapping[str, Any]
    node_config: Mapping[str, Any]


Filter = Callable[[ArrayRecord, FilterContext], ArrayRecord]


def exceptions(app_dir: Path | None = None) -> Mod:
    """A mod that answers an exception with an error: type, frames and what provably comes from code, no value.

    The full text is kept in the site's own folder (see ``keep_full_text``) and nowhere else. With ``app_dir`` the
    app's own literals and source lines are shown.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        try:
            return call_next(message, context)
        except Exception as error:
            return failed(message, context, error, app_dir)

    return mod


def exception_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """``exceptions`` without an app's folder: for any ClientApp, ``ClientApp(mods=[exception_mod])``."""
    return exceptions()(message, context, call_next)


def size_guard(max_bytes: int = MAX_REPLY_BYTES) -> Mod:
    """A mod that holds back a reply of more than ``max_bytes`` and says what takes the room.

    A site sets its own limit with ``--node-config 'max-reply-bytes=…'``.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if not reply.has_content():
            return reply
        own = context.node_config.get(MAX_REPLY_KEY)
        limit = own if isinstance(own, int) and not isinstance(own, bool) else max_bytes
        sizes = {name: _bytes(record) for name, record in reply.content.items()}
        total = sum(sizes.values())
        if total <= limit:
            return reply
        largest = max(sizes, key=lambda name: sizes[name])
        text = (
            f"the reply has {total:,} bytes and this site lets at most {limit:,} leave ('{largest}': "
            f"{sizes[largest]:,}): make the model smaller, or raise the limit at the site with "
            f"--node-config '{MAX_REPLY_KEY}={total}'"
        )
        where = _where(message, context)
        failure = Failure(where.slot, where.task, where.round, type="ReplyTooLarge", traceback=text)
        report = get_report(reply)
        reason = error_reason(where.slot, failure=failure, items=report.items, made=report.made)
        return Message(Error(TOO_LARGE, reason), reply_to=message)

    return mod


def filters(*chosen: Filter) -> Mod:
    """A mod that passes every ArrayRecord that would leave the site through ``chosen``, one after another.

    Nothing leaves when a filter raises or returns anything but an ArrayRecord: the reply becomes an error.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        reply = call_next(message, context)
        if not reply.has_content():
            return reply
        where = _where(message, context)
        sent = _sent(message)
        about = FilterContext(
            where.slot, where.round, message.metadata.message_type, sent, context.run_config, context.node_config
        )
        try:
            for name, record in list(reply.content.array_records.items()):
                reply.content[name] = _filtered(record, chosen, about)
        except Exception as error:
            report = get_report(reply)
            return failed(message, context, error, items=report.items, made=report.made)
        return reply

    return mod


def flip_mods(
    app_dir: Path | None = None, *, privacy: Sequence[Filter] = (), max_bytes: int = MAX_REPLY_BYTES
) -> list[Mod]:
    """Our mods in their order: exceptions outermost, so that a failing filter is reported and nothing leaves."""
    return [exceptions(app_dir), size_guard(max_bytes), *([filters(*privacy)] if privacy else [])]


def failed(
    message: Message,
    context: Context,
    error: BaseException,
    app_dir: Path | None = None,
    *,
    task: str | None = None,
    items: Sequence[Mapping[str, Any]] = (),
    made: int | None = None,
) -> Message:
    """The error reply for ``error``, values removed; its full text is kept at the site.

    ``task``: its name where it differs from the message's type; ``items``: what had been reported until then, and how
    many that were (``made``).
    """
    where = _where(message, context)
    name = task or where.task
    failure = Failure.of(error, slot=where.slot, task=name, round=where.round, app_dir=app_dir)
    keep_at_site(error, where.slot, f"round {where.round} ({name})")
    return Message(Error(FAILED, error_reason(where.slot, failure=failure, items=items, made=made)), reply_to=message)


def keep_at_site(error: BaseException, slot: str, where: str) -> None:
    """Keep the full text of ``error`` in the folder of ``slot`` where its settings name one. Never raises."""
    with contextlib.suppress(Exception):
        state_dir = site_facts(slot).state_dir
        if state_dir is None:
            logger.error("%s failed in %s; its full text is not kept: FLIP_STATE_DIR is not set", slot, where)
        else:
            path = keep_full_text(state_dir, error, where)
            logger.error("%s failed in %s; the full text, values included, is in %s", slot, where, path)


@dataclass(frozen=True)
class _Where:
    slot: str
    round: int
    task: str


def _where(message: Message, context: Context) -> _Where:
    note = get_task(message.content)
    try:
        slot = claimed_slot(context.node_config, context.run_config, note.slot)
    except Exception:
        slot = note.slot
    return _Where(slot, note.round, message.metadata.message_type.partition(".")[0])


def _bytes(record: ArrayRecord | MetricRecord | ConfigRecord) -> int:
    """About what the record takes on the wire. (Flower's own ``count_bytes`` fails for a list that is empty.)"""
    if isinstance(record, ArrayRecord):
        return sum(len(array.data) + len(name) for name, array in record.items())
    values = [item for value in record.values() for item in (value if isinstance(value, list) else [value])]
    return sum(map(len, record)) + sum(len(item) if isinstance(item, str | bytes) else 8 for item in values)


def _filtered(record: ArrayRecord, chosen: Sequence[Filter], about: FilterContext) -> ArrayRecord:
    for function in chosen:
        record = function(record, about)
        if not isinstance(record, ArrayRecord):
            raise TypeError("a privacy filter must return an ArrayRecord")
    return record


def _sent(message: Message) -> ArrayRecord:
    return next(iter(message.content.array_records.values()), ArrayRecord())
