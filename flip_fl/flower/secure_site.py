"""Secure aggregation at a site: keys and shares between rounds, and a mod that masks what training would send.

All of it happens in the engine's process, behind the site's filters. Secrets live in the node's state of the run, which
no app gets and which never leaves the site.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from flip_fl.aggregate.average import Update, check_update
from flip_fl.aggregate.fixed_point import MAX_TOTAL_EXAMPLES, DoesNotFit, encoded
from flip_fl.app.config import AppConfig
from flip_fl.errors import FlipError
from flip_fl.flower.protocol import (
    NUM_EXAMPLES,
    QUERY_KEYS,
    QUERY_SEAL,
    QUERY_TELL,
    SECURE_RECORD,
    as_whole,
    get_task,
    stamp_slot,
)
from flip_fl.flower.quarantine import records_of
from flip_fl.flower.secure_masks import Secrets, begin, mask, seal, tell
from flip_fl.flower.secure_messages import AllKeys, Ask, Sealed, get_secure, put_secure

MASKED = "masked"
# Key of a node's state: flwr keeps it from message to message of a run.
_STATE = "flip.secrets"
_AGAIN = "start the run again; the next round has new keys"


def answer_secure(message: Message, context: Context, slot: str, config: AppConfig) -> Message:
    """The site's part before and after a round's training. Raises ``FlipError`` E0553."""
    if not config.secure_aggregation:
        fix = 'add "SECURE_AGGREGATION": true to config.json'
        raise FlipError("E0553", problem="the server begins secure aggregation, the app does not", suggestion=fix)
    number = get_task(message.content).round
    content = RecordDict()
    stamp_slot(content, slot)
    try:
        if message.metadata.message_type == QUERY_KEYS:
            own = begin(slot, number)
            put_secure(content, own.public)
        elif message.metadata.message_type == QUERY_SEAL:
            own = _secrets(context)
            put_secure(content, seal(own, number, get_secure(message.content, AllKeys)))
        else:
            assert message.metadata.message_type == QUERY_TELL
            own = _secrets(context)
            put_secure(content, tell(own, number, get_secure(message.content, Ask)))
    except ValueError as error:
        raise FlipError("E0553", problem=str(error), suggestion=_AGAIN) from None
    _keep(context, own)
    return Message(content, reply_to=message)


def masking(config_of: Callable[[Context], AppConfig]) -> Mod:
    """A mod that replaces the model in a training's reply by masked numbers, where the app asks for it.

    It stands outside of every filter, so that filters see the model. Nothing leaves that could not be masked: a server
    that leaves out the steps before gets an error.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN:
            return call_next(message, context)
        reach = _reach(config_of, context)
        if reach is None:
            return call_next(message, context)
        given = _given(message)
        reply = call_next(message, context)
        if reply.has_content():
            _mask(message, reply, context, given, reach)
        return reply

    return mod


def _reach(config_of: Callable[[Context], AppConfig], context: Context) -> float | None:
    config = config_of(context)
    return config.secure_aggregation_range if config.secure_aggregation else None


def _given(message: Message) -> Sealed:
    """The others' shares. Raises ``FlipError`` E0553 before anybody trains in vain."""
    if SECURE_RECORD not in message.content:
        problem = "the server asks for it without the others' keys"
        raise FlipError("E0553", problem=problem, suggestion="run the job with the server app of flip_fl")
    try:
        return get_secure(message.content, Sealed)
    except ValueError as error:
        raise FlipError("E0553", problem=str(error), suggestion=_AGAIN) from None


def _mask(message: Message, reply: Message, context: Context, given: Sealed, reach: float) -> None:
    """Put masked numbers in the place of the reply's model. Raises ``FlipError`` E0553."""
    as_whole(message, reply)
    sent, made = records_of(message.content, ArrayRecord), records_of(reply.content, ArrayRecord)
    metrics = records_of(reply.content, MetricRecord)
    if len(sent) != 1 or len(made) != 1 or len(metrics) != 1:
        problem = "one model must come, and one with one MetricRecord leave"
        raise FlipError("E0553", problem=problem, suggestion="send one model")
    before = {name: array.numpy() for name, array in sent[0].items()}
    after = {name: array.numpy() for name, array in made[0].items()}
    examples: Any = metrics[0].get(NUM_EXAMPLES)
    # What the server cannot look at any more is judged here, by the same rule.
    unsound = check_update(before, Update("", after, examples))
    if unsound is not None:
        raise FlipError("E0553", problem=unsound, suggestion="mend what train() does to the model, or returns")
    own = _secrets(context)
    most = MAX_TOTAL_EXAMPLES // max(1, len(own.keys))
    if examples > most:
        problem = f"num_examples is {examples}; at {len(own.keys)} sites it must be at most {most}"
        raise FlipError("E0553", problem=problem, suggestion="count patients, not batches or pixels")
    try:
        vector = encoded(before, after, examples, reach)
    except DoesNotFit as error:
        fix = "raise SECURE_AGGREGATION_RANGE in config.json, or train with a smaller learning rate"
        raise FlipError("E0553", problem=str(error), suggestion=fix) from None
    try:
        mask(own, get_task(message.content).round, given, vector)
    except ValueError as error:
        raise FlipError("E0553", problem=str(error), suggestion=_AGAIN) from None
    finally:
        _keep(context, own)
    for name, record in list(reply.content.items()):
        if isinstance(record, ArrayRecord):
            reply.content[name] = ArrayRecord({MASKED: Array(np.asarray(vector))})


def _secrets(context: Context) -> Secrets:
    """Raises ``FlipError`` E0553 where there are none."""
    record = context.state.get(_STATE)
    text = record.get("json") if isinstance(record, ConfigRecord) else None
    if not isinstance(text, str):
        problem = "this site has no keys of the round: its process was started anew, or none were asked for"
        raise FlipError("E0553", problem=problem, suggestion=_AGAIN)
    return Secrets.model_validate_json(text)


def _keep(context: Context, own: Secrets) -> None:
    context.state[_STATE] = ConfigRecord({"json": own.model_dump_json()})
