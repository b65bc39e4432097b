"""A ClientApp that is not ours, run as one task of a site: seeded, withheld, and nothing leaves that may not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict

from flip_fl.app.faults import AppError
from flip_fl.app.isolation.call import IsolatedCall
from flip_fl.app.metric_key import metric_key
from flip_fl.app.runner import BOOKKEEPING, Result, asked_of, let_out, reported
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.errors import FlipError
from flip_fl.flower import protocol
from flip_fl.flower.grammar import LIST_AXIS
from flip_fl.flower.guest_work import MESSAGE, STATE, called, state_bytes
from flip_fl.flower.private import message_from_bytes, message_to_bytes
from flip_fl.privacy.egress import as_number, sane_name
from flip_fl.privacy.gate import Asked, Gate

GUEST_WORK = "flip_fl.flower.guest_work"
OWN_ERROR = "the app answered with an error of its own"
# Under this key of a message's config record.
STAGE = "stage"
_SHOWN = frozenset({"site", "client_name"})


def answer(
    message: Message, context: Context, spec: SiteSpec, session: Session, call: IsolatedCall | None = None
) -> Message:
    """The reply of the app's own ClientApp to ``message``, with what it reports as items of ours.

    ``call`` is the way to the app's process; None: it is called in this one.

    Its metrics are judged by the rules of every site before they leave; of texts only the slot that it claims to be
    may. Whatever it raises, ``SystemExit`` and a failed import included, is an error reply with its traceback.
    """
    replies: list[Message] = []

    def work(ledger: Ledger) -> Result:
        _say_stage(message, spec)
        if call is None:
            reply = called(message, context, spec, session, ledger)
        else:
            reply = _asked(message, context, spec, session, ledger, call)
        if reply.has_content():
            asked = asked_of(spec, session)
            session.gate.enough(asked, session.examples(_examples(reply.content)))
            reply.content = _may_leave(reply.content, ledger, spec, session.gate)
            if not session.aborted():
                _filter(message.content, reply.content, asked, session, ledger)
        replies.append(reply)
        return Result(ok=True, aborted=session.aborted())

    told = reported(spec, session, work)
    if not replies or told.aborted:
        code = protocol.ABORTED if told.aborted else protocol.FAILED
        failure = None if told.aborted else told.failure
        reason = protocol.error_reason(
            spec.slot, failure=failure, aborted=told.aborted, items=told.events, made=told.made
        )
        return Message(Error(code, reason), reply_to=message)
    (reply,) = replies
    if reply.has_content():
        protocol.put_report(reply.content, spec.slot, told.events, made=told.made, facts=told.facts)
    return reply


def _asked(
    message: Message, context: Context, spec: SiteSpec, session: Session, ledger: Ledger, call: IsolatedCall
) -> Message:
    """The reply from the app's process, of which nothing counts but its content."""
    facts = {
        "run_id": context.run_id,
        "node_id": context.node_id,
        "node_config": dict(context.node_config),
        "run_config": dict(context.run_config),
    }
    blobs = {MESSAGE: message_to_bytes(message), STATE: state_bytes(context.state, message)}
    _, made = call.work(GUEST_WORK, facts, blobs, spec, session, ledger)
    try:
        reply, state = message_from_bytes(made[MESSAGE]), message_from_bytes(made[STATE])
    except (KeyError, ValueError) as problem:
        raise AppError(f"the app's process gave no message ({type(problem).__name__})") from None
    if state.has_content():
        context.state = state.content
    if reply.has_error():
        # Its reason is the app's own text.
        return Message(Error(reply.error.code, OWN_ERROR), reply_to=message)
    return Message(reply.content, reply_to=message)


def _say_stage(message: Message, spec: SiteSpec) -> None:
    """In a job of several stages the app reads in its config record which one this is."""
    if spec.stage is not None:
        said = message.content.config_records.get(protocol.CONFIG, ConfigRecord()).copy()
        said[STAGE] = spec.stage
        message.content[protocol.CONFIG] = said


def _examples(content: RecordDict) -> int | None:
    """On how many examples the app says that it worked; None where it does not, or with two voices."""
    said: set[int] = set()
    for record in content.metric_records.values():
        for name in ("num-examples", "num_examples"):
            value = record.get(name)
            if isinstance(value, int):
                said.add(value)
    return said.pop() if len(said) == 1 else None


def _filter(received: RecordDict, content: RecordDict, asked: Asked, session: Session, ledger: Ledger) -> None:
    """Put the site's filters on the arrays of ``content``, which are a whole model. Raises ``FlipError`` E0974."""
    made = content.array_records
    if not made or not session.gate.filters(asked):
        return
    if len(made) != 1 or len(received.array_records) != 1:
        problem = f"{len(received.array_records)} ArrayRecords came and {len(made)} would leave; there must be one"
        raise FlipError("E0974", place=asked.where, problem=problem)
    ((name, record),), (sent,) = made.items(), received.array_records.values()
    before = {each: array.numpy() for each, array in sent.items()}
    after = {each: array.numpy() for each, array in record.items()}
    left = let_out(asked, before, after, session, ledger, difference=False)
    content[name] = ArrayRecord({each: Array(array) for each, array in left.items()})


def _may_leave(content: RecordDict, ledger: Ledger, spec: SiteSpec, gate: Gate) -> RecordDict:
    """``content`` without the metrics and settings that may not leave; each metric is told to ``ledger``."""
    passed = RecordDict()
    for name, record in content.items():
        if name.startswith(protocol.OUR_PREFIX):
            continue  # ours are made below this, by the house
        if isinstance(record, MetricRecord):
            passed[name] = MetricRecord(
                {
                    key: value if key in BOOKKEEPING else _rounded(value, ledger)
                    for key, value in record.items()
                    if _counts(key, value, gate) or _told(key, value, ledger)
                }
            )
        elif isinstance(record, ConfigRecord):
            passed[name] = ConfigRecord(_plain(record, ledger, spec, gate))
        elif isinstance(record, ArrayRecord):
            passed[name] = record
    return passed


def _counts(key: str, value: Any, gate: Gate) -> bool:
    """Whether this is bookkeeping: under a policy a whole number, so that it holds nothing else."""
    return key in BOOKKEEPING and (gate.policy is None or isinstance(value, int))


def _rounded(value: Any, ledger: Ledger) -> Any:
    if isinstance(value, list):
        return [_rounded(each, ledger) for each in value]
    return type(value)(ledger.rounded(value))


def _told(key: str, value: Any, ledger: Ledger) -> bool:
    """Whether a metric may leave; it is then reported. A list is a series: each of its numbers must be fit to leave."""
    label, axis, x = metric_key(key)
    if not isinstance(value, list):
        return ledger.metric(label, value, x, axis)
    left = [ledger.metric(label, each, (x or 0.0) + place, axis or LIST_AXIS) for place, each in enumerate(value)]
    return all(left)


def _plain(record: Mapping[str, Any], ledger: Ledger, spec: SiteSpec, gate: Gate) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in record.items():
        claim = key in _SHOWN and isinstance(value, str)
        number = None if isinstance(value, str | bytes | list) else as_number(value)
        named = ledger.declared(key) if gate.bounds_names else sane_name(key)
        if claim:
            kept[key] = value
        elif named and number is not None and math.isfinite(number):
            kept[key] = _rounded(value, ledger)
        else:
            ledger.refuse(f"a setting of a reply in {spec.where()} holds more than a number: not sent")
    return kept
