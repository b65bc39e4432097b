"""Waiting until a process is behind its walls, seen from outside."""

from __future__ import annotations

from flip_fl.app.failures import GuestStopped
from flip_fl.app.isolation.channel import Channel
from flip_fl.app.isolation.opener import Opener
from flip_fl.app.isolation.rules import Level

# Loading torch takes seconds; a disk that is slow, a minute.
START_S = 300.0


def await_entered(channel: Channel, pid: int, level: Level, processes: int) -> Opener | None:
    """Wait until the process ``pid``, which was told the rules, is behind them; who answers it there from now on.

    Raises ``GuestStopped``.
    """
    try:
        said = channel.read(START_S)
    except OSError as error:
        raise GuestStopped(f"the app's process is not there after {START_S:g} s ({type(error).__name__})") from None
    if said is None or said.head.get("kind") != "ready":
        reason = said.head.get("reason") if said is not None else "its process ended"
        raise GuestStopped(f"the app's process cannot be isolated as is asked for here ({level.value}): {reason}")
    opener = Opener(said.descriptors.pop(), pid, processes) if level is Level.FULL else None
    said.close()
    return opener
