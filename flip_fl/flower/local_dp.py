"""Local differential privacy as a Flower mod: the update is clipped and gets noise before it leaves the site."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, Context, Message, MessageType
from flwr.clientapp.typing import ClientAppCallable

from flip_fl.app.faults import AppError
from flip_fl.privacy.gaussian import GaussianRule

logger = logging.getLogger("flip_fl.flower")

DP_ENABLED = "dp-enabled"
_VALUES = {
    "dp-clipping-norm": "clipping_norm",
    "dp-sensitivity": "sensitivity",
    "dp-epsilon": "epsilon",
    "dp-delta": "delta",
}


def local_dp_mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """``@app.train(mods=[local_dp_mod])``: ``GaussianRule`` on the one ArrayRecord of a training's reply.

    The rule is the run config's (dp-clipping-norm, dp-sensitivity, dp-epsilon, dp-delta; what is absent is
    ``GaussianRule``'s default), and ``dp-enabled = false`` switches it off. What the reply says in metrics and lists is
    not covered, nor do rounds add up here: the log says what one round gives. Raises ``AppError`` for a setting
    that would switch the mechanism off by mistake, and for arrays that cannot be compared: nothing leaves then.
    """
    if message.metadata.message_type.partition(".")[0] != MessageType.TRAIN:
        return call_next(message, context)
    rule = rule_of(context.run_config)
    reply = call_next(message, context)
    if rule is None or reply.has_error():
        return reply
    sent, made = message.content.array_records, reply.content.array_records
    if len(sent) != 1 or len(made) != 1:
        raise AppError(f"one ArrayRecord must come and one leave; {len(sent)} came and {len(made)} would leave")
    (before,), ((name, after),) = sent.values(), made.items()
    try:
        private = rule.applied(_numpy(before), _numpy(after))
    except ValueError as error:
        raise AppError(f"local differential privacy: {error}") from None
    reply.content[name] = ArrayRecord({each: Array(array) for each, array in private.items()})
    logger.info("local differential privacy: %s", rule.words)
    return reply


def rule_of(run_config: Mapping[str, Any]) -> GaussianRule | None:
    """What the run config says; None when it switches the mechanism off. Raises ``AppError``."""
    enabled = run_config.get(DP_ENABLED, True)
    if not isinstance(enabled, bool):
        raise AppError(f"{DP_ENABLED} must be true or false, it is a {type(enabled).__name__}")
    given = {field: run_config[key] for key, field in _VALUES.items() if key in run_config}
    try:
        return GaussianRule(**given) if enabled else None
    except ValueError as error:
        raise AppError(f"local differential privacy: {error}; see dp-… in the run config") from None


def _numpy(record: ArrayRecord) -> dict[str, Any]:
    return {name: array.numpy() for name, array in record.items()}
