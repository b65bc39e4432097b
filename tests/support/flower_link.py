"""A grid that plays a SuperLink's faults: replies that come late, never, twice, or to messages nobody sent.

A real SuperLink cannot be made to do these things on request, so this one is scripted: a real ``Grid`` over queues in
memory, whose messages and replies are flwr's own and cross a real serialisation. Everything else is tested over
``LocalGrid`` and over a real deployment.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp import Grid

from flip_fl.flower.grid import FlipGrid, Patience, Quorum
from flip_fl.flower.private import (
    SERVER_NODE_ID,
    NodeInfo,
    Run,
    be_task,
    message_from_bytes,
    message_to_bytes,
    new_id,
    new_run,
    node_info,
    number_message,
)
from flip_fl.flower.protocol import get_task, put_report
from flip_fl.reporting.local import LocalReporting
from flip_fl.reporting.outbox import Outbox
from flip_fl.wire import new_event_id

DEPLOYMENT = "flwr-serverapp"
ALL = Quorum()
QUICK = Patience(start_timeout_s=0.3, phase_timeout_s=5.0, poll_s=0.01)


@dataclass
class Delivery:
    """A reply that is there ``after_s`` seconds after its message; ``stray`` comes with whatever is asked for.

    With ``when_asked_again`` it is there when its node gets another message, however long that takes.
    """

    message: Message
    after_s: float = 0.0
    stray: bool = False
    when_asked_again: bool = False
    due: float = field(default=0.0, init=False)
    name: str = field(default="", init=False)


Answer = Callable[[str, Message], Sequence[Delivery] | Message | None]


class ScriptedLink(Grid):
    """Nodes by name, each answering with ``answers[name]`` (else ``default``); ``nodes`` may change at any time.

    ``refuses``: names whose messages the link does not take. ``pulls`` counts how often it was asked for replies.
    """

    def __init__(
        self, names: Sequence[str], default: Answer, *, task_type: str = DEPLOYMENT, **answers: Answer
    ) -> None:
        self.nodes: list[NodeInfo] = [node_info(new_id(), name) for name in names]
        self.answers: dict[str, Answer] = dict(answers)
        self.refuses: set[str] = set()
        self.pushed: list[Message] = []
        self.pulls = 0
        self._names = {node.node_id: node.name for node in self.nodes}
        self._default = default
        self._queue: list[Delivery] = []
        self._run = new_run(new_id(), task_type, {})
        be_task(run_id=self._run.run_id, node_id=SERVER_NODE_ID, task_id=new_id())

    def connect(self, name: str) -> int:
        """A node comes online under ``name``; returns its id."""
        node = node_info(new_id(), name)
        self.nodes.append(node)
        self._names[node.node_id] = name
        return int(node.node_id)

    def disconnect(self, name: str) -> None:
        self.nodes = [node for node in self.nodes if node.name != name]

    @property
    def run(self) -> Run:
        return self._run

    def set_run(self, run: Run) -> None:
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> list[NodeInfo]:
        return list(self.nodes)

    def get_node_ids(self) -> list[int]:
        return [int(node.node_id) for node in self.nodes]

    def push_messages(self, messages: Iterable[Message]) -> list[Any]:
        ids: list[Any] = []
        for message in messages:
            message_id = number_message(message)
            name = self._names[message.metadata.dst_node_id]
            ids.append(None if name in self.refuses else message_id)
            self.pushed.append(message)
            if name not in self.refuses:
                self._answer(name, message_from_bytes(message_to_bytes(message)))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        self.pulls += 1
        wanted, now = set(message_ids), time.monotonic()
        due = [
            each
            for each in self._queue
            if each.due <= now and (each.stray or each.message.metadata.reply_to_message_id in wanted)
        ]
        self._queue = [each for each in self._queue if each not in due]
        # in the order in which they came, however long nobody has looked
        return [message_from_bytes(message_to_bytes(each.message)) for each in sorted(due, key=lambda each: each.due)]

    @property
    def left(self) -> int:
        """How many answers nobody has taken."""
        return len(self._queue)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As Flower's own grids: until all replies are there, and then as they are."""
        pending = set(self.push_messages(messages))
        replies: list[Message] = []
        while pending:
            found = self.pull_messages(pending)
            pending -= {reply.metadata.reply_to_message_id for reply in found}
            replies += found
        return replies

    def _answer(self, name: str, message: Message) -> None:
        overtaken = [each for each in self._queue if each.when_asked_again and each.name == name]
        for each in overtaken:
            # behind what others have answered meanwhile
            self._queue.remove(each)
            self._queue.append(each)
            each.due = time.monotonic()
        given = self.answers.get(name, self._default)(name, message)
        for each in [Delivery(given)] if isinstance(given, Message) else given or ():
            each.name = name
            each.due = math.inf if each.when_asked_again else time.monotonic() + each.after_s
            number_message(each.message)
            self._queue.append(each)


# -- what sites answer --------------------------------------------------------------------------------------------


def model(value: float = 0.0) -> ArrayRecord:
    """A small model: a matrix, a 0-d float, a whole-number buffer."""
    arrays = {
        "weight": np.full((2, 3), value, dtype=np.float32),
        "scale": np.array(value, dtype=np.float64),
        "seen": np.array([7], dtype=np.int64),
    }
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def item(slot: str, label: str = "loss", value: float = 0.5, round_: int = 1, **more: Any) -> dict[str, Any]:
    """A metric as our client reports it."""
    return {
        "kind": "metric",
        "id": str(new_event_id()),
        "at": "2026-01-02T03:04:05Z",
        "client": slot,
        "global_round": round_,
        "label": label,
        "result": value,
        "x_value": None,
        "x_label": None,
        "task": "train",
        "stage": None,
        **more,
    }


def good(name: str, message: Message, *, claim: str | None = None, **metrics: Any) -> Message:
    """A sound reply of our own client at ``name``: the model moved by the site's number, one reported metric."""
    number = int(name.rpartition("_")[2])
    content = RecordDict({"metrics": MetricRecord({"num-examples": 10 * number, "loss": 1.0 / number, **metrics})})
    if message.metadata.message_type == MessageType.TRAIN:
        content["arrays"] = model(float(number))
    slot = claim or name
    put_report(content, slot, [item(slot, round_=get_task(message.content).round)])
    return Message(content, reply_to=message)


def error(code: int, reason: str | None = None) -> Answer:
    """A site, or the link for it, answers with an error."""
    return lambda name, message: Message(Error(code, reason), reply_to=message)


def late(after_s: float, answer: Answer = good) -> Answer:
    """``answer``, but only after a while."""

    def answers(name: str, message: Message) -> Sequence[Delivery]:
        found = answer(name, message)
        assert isinstance(found, Message)
        return [Delivery(found, after_s)]

    return answers


def overtaken(answer: Answer = good) -> Answer:
    """``answer``, but only when the site is asked the next time: for a phase that is to give it up."""

    def answers(name: str, message: Message) -> Sequence[Delivery]:
        found = answer(name, message)
        assert isinstance(found, Message)
        return [Delivery(found, when_asked_again=True)]

    return answers


def never(name: str, message: Message) -> None:
    """A site that does not answer."""


# -- a grid over it -----------------------------------------------------------------------------------------------


@dataclass
class Bench:
    """A ``FlipGrid`` over ``link``; ``told`` reads back what the hub would get, ``round`` does one phase."""

    link: Grid
    folder: Path
    slots: Sequence[str] = ()
    quorum: Quorum = ALL
    patience: Patience = QUICK
    more: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model_id = uuid4()
        self.reporting = LocalReporting(self.model_id, self.folder)
        self.grid = FlipGrid(
            self.link,
            self.reporting,
            slots=self.slots,
            quorum=self.quorum,
            patience=self.patience,
            total_rounds=3,
            **self.more,
        )

    def ask(self, kind: str = MessageType.TRAIN, number: int = 1, *, timeout: float | None = None) -> list[Message]:
        """What a strategy does in one phase: all nodes get the same content."""
        content = RecordDict({"arrays": model(), "config": ConfigRecord({"server-round": number})})
        messages = [Message(content, node_id, kind) for node_id in self.grid.get_node_ids()]
        return list(self.grid.send_and_receive(messages, timeout=timeout))

    def told(self, kind: str) -> list[dict[str, Any]]:
        """The reports of ``kind`` in the outbox, in order."""
        box: Outbox = self.reporting._outbox
        return [
            found
            for record in box.collect(limit=100_000, release=True)
            for part in record.parts()
            if (found := part.item())["kind"] == kind
        ]

    @property
    def failures(self) -> list[tuple[str | None, str]]:
        return [(row.get("client"), row["log"]) for row in self.told("log") if not row["success"]]
