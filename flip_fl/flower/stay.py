"""The server's word to sites that wait for others: the run goes on, keep what it has fetched."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flip_fl.flower.protocol import QUERY_STAY, TaskNote, with_task
from flip_fl.flower.roster import Roster


class Stay:
    """Tells the sites of ``roster`` that have nothing to do, once in ``every_s`` seconds at the most."""

    def __init__(self, inner: Grid, roster: Roster, every_s: float) -> None:
        self._inner = inner
        self._roster = roster
        self._every_s = every_s
        self._next = time.monotonic() + every_s
        self._told: list[str] = []

    def tell(self, busy: Collection[str]) -> None:
        """Tell all but the slots in ``busy``. Whoever does not hear of it fetches its studies again."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + self._every_s
        idle = [(node, slot) for node, slot in self._roster.known.items() if slot not in busy]
        with contextlib.suppress(Exception):
            # The answers say nothing, but a SuperLink keeps them until somebody takes them.
            list(self._inner.pull_messages(self._told))
            messages = [Message(with_task(RecordDict(), TaskNote(slot)), node, QUERY_STAY) for node, slot in idle]
            self._told = [message_id for message_id in self._inner.push_messages(messages) if message_id]
