"""In Flower's simulation nodes have no names: each is asked once which site it is."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from flip_fl.flower.protocol import QUERY_SLOT, TaskNote, get_report, with_task

logger = logging.getLogger("flip_fl.flower")

# What a ClientApp without our handler for the question ends with.
_NO_HANDLER = 2


class SimulatedNames:
    """What simulated nodes say they are. ``assigned``: none of them understood the question, so names were given out.

    ``pause`` waits some seconds, or raises.
    """

    def __init__(self, inner: Grid, pause: Callable[[float], None], poll_s: float) -> None:
        self.assigned = False
        self._inner = inner
        self._pause = pause
        self._poll_s = poll_s
        self._names: dict[int, str] = {}

    def names(self, node_ids: Sequence[int], slots: Sequence[str], timeout_s: float) -> dict[int, str]:
        """Node id → slot for the nodes that have one; asks those that were not asked before, for ``timeout_s``."""
        new = [node_id for node_id in node_ids if node_id not in self._names]
        if new:
            foreign = self._ask(new, timeout_s)
            if foreign and not any(self._names[node_id] for node_id in node_ids):
                self._assign(sorted(node_ids), slots)
        return {node_id: self._names[node_id] for node_id in node_ids}

    def _ask(self, node_ids: Sequence[int], timeout_s: float) -> bool:
        """Ask; whether every answer came from a ClientApp that does not know the question."""
        messages = [Message(with_task(RecordDict(), TaskNote()), node_id, QUERY_SLOT) for node_id in node_ids]
        self._inner.push_messages(messages)
        pending = {message.metadata.message_id: message.metadata.dst_node_id for message in messages}
        self._names.update(dict.fromkeys(node_ids, ""))
        codes: list[int | None] = []
        deadline = time.monotonic() + timeout_s
        while pending:
            for reply in self._inner.pull_messages(list(pending)):
                node_id = pending.pop(reply.metadata.reply_to_message_id, None)
                if node_id is None:
                    continue
                codes.append(reply.error.code if reply.has_error() else None)
                self._names[node_id] = (get_report(reply).claim or "") if reply.has_content() else ""
            left = deadline - time.monotonic()
            if not pending or left <= 0:
                break
            self._pause(min(self._poll_s, left))
        return bool(codes) and not pending and all(code == _NO_HANDLER for code in codes)

    def _assign(self, node_ids: Sequence[int], slots: Sequence[str]) -> None:
        self.assigned = True
        given = list(slots) or [f"Trust_{number + 1}" for number in range(len(node_ids))]
        self._names.update(dict.fromkeys(node_ids, ""))
        self._names.update(zip(node_ids, given, strict=False))
        logger.warning("the ClientApp does not say which site it is: slots are given out in the order of node ids")
