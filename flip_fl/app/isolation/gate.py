"""A guest's way behind its walls: told over a channel, applied, and told that it is done."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping
from typing import Any

from flip_fl.app.isolation.channel import Channel
from flip_fl.app.isolation.enter import enter
from flip_fl.app.isolation.rules import Rules


def pass_gate(channel: Channel) -> Mapping[str, Any] | None:
    """Apply what the other side says to this process, which has one thread; all that it said.

    None where it said nothing, and where it could not be applied: then nothing of the app may run.
    """
    begin = channel.read()
    if begin is None:
        return None
    try:
        listener = enter(Rules.of(begin.head["rules"]))
    except OSError as error:
        channel.say({"kind": "refused", "reason": error.strerror or str(error)})
        return None
    channel.say({"kind": "ready"}, [] if listener is None else [listener])
    if listener is not None:
        os.close(listener)
    return begin.head


def passed(descriptor: int) -> bool:
    """Whether the way led behind the walls, for a process that is told nothing else on it."""
    with contextlib.closing(Channel(socket.socket(fileno=descriptor))) as channel:
        return pass_gate(channel) is not None


def tensors_by_value() -> None:
    """Tensors go to and from a data loader's workers by value: torch's ways need sockets, or names for everybody."""
    try:
        import torch
    except ImportError:
        return
    from multiprocessing.reduction import ForkingPickler

    for kind in (torch.Tensor, torch.nn.Parameter):
        ForkingPickler.register(kind, lambda value: value.__reduce_ex__(2))
    for storage in (torch.UntypedStorage, torch.storage.TypedStorage):
        ForkingPickler.register(storage, lambda value: value.__reduce__())
