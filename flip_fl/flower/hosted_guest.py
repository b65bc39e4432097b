"""The process of a ServerApp that is not ours: the app runs unmodified, its grid and its rounds are the server's.

    CONNECTION LIFELINE      (numbers of inherited descriptors)

Started by ``hosted`` only, with an environment that holds no setting and no key, in a folder of its own.
"""

from __future__ import annotations

import contextlib
import faulthandler
import inspect
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from flip_fl.app.child import error_answer
from flip_fl.app.failures import Failure
from flip_fl.app.loader import AppLoader
from flip_fl.errors import FlipError
from flip_fl.flower.handling import DirectHandling
from flip_fl.flower.hosted_peer import Peer, PeerRefused
from flip_fl.flower.hosted_strategy import (
    BEGIN_STAGE,
    CHANGED,
    EVALUATE_FN,
    HOOK,
    LOOP,
    RESTORE,
    SUMMARY,
    UNKEPT,
    UNSATISFIABLE,
)
from flip_fl.flower.hosted_values import value_from_bytes
from flip_fl.flower.local_pipe import receive_frame
from flip_fl.flower.local_worker import end_with
from flip_fl.flower.private import be_task, has_main, name_message, new_run, node_info, settle_flower_log
from flip_fl.flower.strategy import HOOKS, EvaluateFn
from flip_fl.values import SERVER_NAME

MODULE = "server_app"
COMPONENT = "app"
# What this process asks the server for.
NODES, PUSH, PULL, ASK, START, LOOP_HOOK, LOOP_EVALUATE = (
    "nodes",
    "push",
    "pull",
    "ask",
    "start",
    "loop hook",
    "loop evaluate",
)


class RunOver(Exception):
    """What ``strategy.start`` raises in the ServerApp when the run has ended otherwise than in a result."""


class PeerGrid(Grid):
    """The server's grid: the job's sites only."""

    def __init__(self, peer: Peer, run: Any) -> None:
        self._peer = peer
        self._run = run

    @property
    def run(self) -> Any:
        return self._run

    def set_run(self, run: Any) -> None:
        self._run = run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_nodes(self) -> Any:
        return [node_info(node_id, name) for node_id, name in self._peer.call(NODES)]

    def get_node_ids(self) -> list[int]:
        return [node_id for node_id, _ in self._peer.call(NODES)]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        sent = list(messages)
        return _named(sent, self._peer.call(PUSH, sent))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return list(self._peer.call(PULL, list(message_ids)))

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        sent = list(messages)
        ids, replies = self._peer.call(ASK, sent, timeout)
        _named(sent, ids)
        return list(replies)


class AppGrid(PeerGrid):
    """The one that the ServerApp gets: a strategy that is started with it is the run."""


class Desk:
    """Answers what the server asks of the strategy that the ServerApp has started."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.raised: BaseException | None = None
        self._handling: DirectHandling | None = None
        self._start: Callable[..., Result] = Strategy.start
        self._evaluate_fn: EvaluateFn | None = None
        self._peer: Peer | None = None

    @property
    def handlers(self) -> dict[str, Callable[..., Any]]:
        return {
            HOOK: self._hook,
            LOOP: self._loop,
            EVALUATE_FN: self._evaluate,
            SUMMARY: lambda: self._given.strategy.summary(),
            CHANGED: lambda: self._given.state.changed(),
            RESTORE: lambda state: self._given.state.restore(state),
            UNKEPT: lambda: self._given.state.unkept(),
            UNSATISFIABLE: lambda sites: self._given.unsatisfiable(sites),
            BEGIN_STAGE: lambda names, anew: self._given.begin_stage(frozenset(names), anew=anew),
        }

    def start(
        self, peer: Peer, own_start: Callable[..., Result] | None, strategy: Strategy, given: dict[str, Any]
    ) -> Result:
        """In the place of ``strategy.start``, with what it was ``given`` by name: the server goes through the rounds.

        ``own_start``: that of its class, where it has a loop of its own.
        """
        handling = DirectHandling(strategy)
        evaluate_fn = given.pop("evaluate_fn")
        if self._handling is None:
            self._peer, self._handling, self._evaluate_fn = peer, handling, evaluate_fn
            self._start = own_start or Strategy.start
        facts = {
            "name": handling.name,
            "repr": repr(strategy),
            "weight_key": handling.weight_key,
            "noises": handling.noises,
            "loop": own_start is not None,
            "evaluate_fn": evaluate_fn is not None,
        }
        try:
            result = peer.call(START, facts, given)
        except PeerRefused as refused:
            raise (self.raised or RunOver(str(refused.why))) from None
        return result if isinstance(result, Result) else Result()

    @property
    def _given(self) -> DirectHandling:
        assert self._handling is not None  # nothing is asked for before a strategy is started
        return self._handling

    def _hook(self, name: str, *arguments: Any) -> Any:
        assert self._peer is not None
        if name not in HOOKS:
            raise LookupError(f"a strategy has no hook {name!r:.40}")
        # The class's: while a loop of the strategy's own runs, others stand in their place.
        hook = getattr(type(self._given.strategy), name).__get__(self._given.strategy)
        if name.startswith("configure"):
            return list(hook(*arguments, PeerGrid(self._peer, self.run)))
        return hook(*arguments)

    def _evaluate(self, number: int, arrays: ArrayRecord) -> MetricRecord | None:
        return None if self._evaluate_fn is None else self._evaluate_fn(number, arrays)

    def _loop(self, given: dict[str, Any], evaluated: bool) -> Result:
        """Run the loop of the strategy's own; each of its hooks is the server's, who asks here for what it does."""
        assert self._peer is not None
        peer, strategy = self._peer, self._given.strategy

        def standing(name: str) -> Callable[..., Any]:
            as_declared = inspect.signature(getattr(Strategy, name))

            def hook(*arguments: Any, **named: Any) -> Any:
                _, *values = as_declared.bind(strategy, *arguments, **named).arguments.values()
                sent = [_sendable(each) for each in values if not isinstance(each, Grid)]
                try:
                    return peer.call(LOOP_HOOK, name, *sent)
                except PeerRefused as refused:
                    raise (self.raised or RunOver(str(refused.why))) from None

            return hook

        def evaluate(number: int, arrays: ArrayRecord) -> Any:
            return peer.call(LOOP_EVALUATE, number, arrays)

        for name in HOOKS:
            setattr(strategy, name, standing(name))
        try:
            # By name: its `start` may have fewer parameters and take the others as they come.
            return self._start(
                strategy, **given, grid=PeerGrid(peer, self.run), evaluate_fn=evaluate if evaluated else None
            )
        finally:
            for name in HOOKS:
                delattr(strategy, name)


def main(argv: Sequence[str]) -> int:
    """Run one ServerApp; returns when its function has."""
    connection_number, lifeline = (int(each) for each in argv)
    for descriptor in (connection_number, lifeline):
        os.set_inheritable(descriptor, False)
    faulthandler.enable()
    end_with(os.getppid(), lifeline)
    settle_flower_log(colours=False)
    with socket.socket(fileno=connection_number) as connection:
        hello = receive_frame(connection)
        if hello is None:
            return 0
        facts = value_from_bytes(hello)
        be_task(**facts["identity"])
        run = new_run(**facts["run"])
        app_dir = Path(facts["app_dir"])
        desk = Desk(run)

        def excuse(error: Exception) -> Any:
            desk.raised = error
            return _said(error, app_dir)

        peer = Peer(connection, desk.handlers, excuse)
        peer.over(_run(app_dir, Context(**facts["context"]), desk, peer))
    return 0


def _run(app_dir: Path, context: Context, desk: Desk, peer: Peer) -> dict[str, Any]:
    """Run the app; how that went, for the server."""
    try:
        app = getattr(AppLoader(app_dir).module(MODULE), COMPONENT, None)
        if not isinstance(app, ServerApp):
            return {"refused": f"{MODULE}.py has no ServerApp called {COMPONENT}, it is a {type(app).__name__}"}
        if not has_main(app):
            return {"refused": f"{MODULE}.py is of Flower's older form (server_fn): write @app.main()"}
        with _watched(desk, peer):
            app(AppGrid(peer, desk.run), context)
    except SystemExit as left:
        return {"exit": repr(left.code)[:100]}
    except Exception as error:
        return _said(error, app_dir)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    return {}


def _said(error: Exception, app_dir: Path) -> dict[str, Any]:
    """``error`` in plain values, without a value of a row: strategies handle what clients have written."""
    if isinstance(error, FlipError):
        return error_answer(error)
    failure = Failure.of(error, slot=SERVER_NAME, task="aggregate", round=0, app_dir=app_dir)
    return {"failure": {"type": failure.type, "traceback": failure.traceback}}


@contextlib.contextmanager
def _watched(desk: Desk, peer: Peer) -> Iterator[None]:
    """While the block runs, ``strategy.start(grid, …)`` with an ``AppGrid`` is the desk's.

    Of every class of strategies that is there: also of those whose ``start`` is their own.
    """
    own = {kind: vars(kind)["start"] for kind in _kinds(Strategy) if "start" in vars(kind)}
    as_declared = inspect.signature(Strategy.start)

    def watching(kind: type) -> Any:
        original = own[kind]

        def started(self: Strategy, grid: Grid, *args: Any, **kwargs: Any) -> Result:
            if not isinstance(grid, AppGrid):
                result: Result = original(self, grid, *args, **kwargs)
                return result
            first = next(each for each in type(self).__mro__ if each in own)
            bound = as_declared.bind(self, grid, *args, **kwargs)
            bound.apply_defaults()
            given = {name: value for name, value in bound.arguments.items() if name not in ("self", "grid")}
            return desk.start(peer, None if first is Strategy else own[first], self, given)

        return started

    replaced = {kind: watching(kind) for kind in own}
    for kind, started in replaced.items():
        kind.start = started  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for kind, original in own.items():
            kind.start = original  # type: ignore[attr-defined]


def _kinds(kind: type) -> Iterator[type]:
    yield kind
    below: list[type] = kind.__subclasses__()
    for further in below:
        yield from _kinds(further)


def _sendable(value: Any) -> Any:
    """``value``, or the list of an iterable of messages."""
    return value if isinstance(value, int | ArrayRecord | ConfigRecord) else list(value)


def _named(sent: list[Message], ids: list[str]) -> list[str]:
    """The ids under which messages were sent, set in them, too."""
    return [name_message(message, message_id) for message, message_id in zip(sent, ids, strict=False)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
