"""A ServerApp that is not ours, unmodified, in a process of its own: it gets our grid, and its strategy is watched."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result

from flip_fl.app.child import answered_error
from flip_fl.app.failures import Failure, GuestFailed, GuestStopped
from flip_fl.app.isolation import front
from flip_fl.app.isolation.rules import Level
from flip_fl.app.isolation.server_gate import ServerGate
from flip_fl.app.plan import stages_in
from flip_fl.core.journal import read_journal
from flip_fl.environment import scrubbed
from flip_fl.errors import FlipError
from flip_fl.flower import hosted_guest as guest
from flip_fl.flower.grid import FlipGrid
from flip_fl.flower.host import Host
from flip_fl.flower.hosted_peer import Peer, PeerGone, PeerRefused
from flip_fl.flower.hosted_strategy import EVALUATE_FN, RemoteHandling, RemoteLoop
from flip_fl.flower.hosted_values import value_to_bytes
from flip_fl.flower.local_pipe import send_frame, socket_pair
from flip_fl.flower.phase import STOPPED_AT_HUB, RoundFailed, RunStopped
from flip_fl.flower.private import task_identity
from flip_fl.flower.rounds import Rounds
from flip_fl.flower.run_config import Given, RunFacts, read_facts
from flip_fl.flower.training import How, conduct
from flip_fl.values import SERVER_NAME, ModelStatus
from flip_fl.wire import LogItem, StatusItem

logger = logging.getLogger("flip_fl.flower")

NO_STRATEGY = (
    "the app's ServerApp ended without calling start() of a strategy: there is no model. Call strategy.start(grid, …),"
    " or leave server_app.py out of the app: flip_fl then averages by itself"
)
LEAVE_S = 5.0
# A run that was stopped: Flower gives its server little more.
HURRY_S = 1.0
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


def serve(app_dir: Path, grid: Grid, context: Context, this: Host) -> None:
    """Run the ServerApp of the package in ``app_dir`` and deliver what its strategy has made.

    It runs with this process's environment but for settings and keys, in a folder of its own; ``FLIP()`` is the
    development client there: the house reports, and stores the results. Raises ``RoundFailed`` where no strategy was
    started or the process was lost, ``GuestFailed`` for what the ServerApp raises, and what a phase of the run raises,
    whether the ServerApp lets it pass or not.
    """
    folder = this.home.folder / "server_app"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = _Hosted(this, read_facts(Given(app_dir), context.run_config))
    environment = scrubbed(
        LOCAL_DEV="true",
        FLIP_STATE_DIR=str(folder),
        WORKING_DIR=str(folder),
        MODEL_CHECKPOINTS_DIR=str(this.home.checkpoint_folders(app_dir)[-1]),
        PYTHONPATH=os.pathsep.join(filter(None, (_PACKAGE_ROOT, os.environ.get("PYTHONPATH")))),
    )
    walls = this.home.walls
    gate = None
    if walls.level is Level.FULL:
        environment |= {"HOME": str(folder), "TMPDIR": str(folder)}
        gate = ServerGate(walls, read=[app_dir, *this.home.checkpoint_folders(app_dir)], write=[folder])
    try:
        with _process(folder, environment, gate) as (process, connection):
            work.talk(process, connection, _hello(app_dir, grid, context))
    finally:
        _tell(folder, this)
    work.finish()


class _Hosted:
    """What one ServerApp does with its strategy, and with the grid."""

    def __init__(self, this: Host, facts: RunFacts) -> None:
        self._this = this
        self._facts = facts
        self._rounds: Rounds | None = None
        self._failed: Exception | None = None
        self._handling: RemoteHandling | None = None
        self._peer: Peer | None = None

    def talk(self, process: subprocess.Popen[bytes], connection: socket.socket, hello: bytes) -> None:
        """Answer the ServerApp until it ends. Raises what the run raised, else what the ServerApp did."""
        handlers: dict[str, Callable[..., Any]] = {
            guest.NODES: self._nodes,
            guest.PUSH: self._push,
            guest.PULL: lambda ids: list(self._grid.pull_messages([str(each) for each in ids])),
            guest.ASK: self._ask,
            guest.START: self._start,
            guest.LOOP_HOOK: lambda *given: self._loop.hook(*given),
            guest.LOOP_EVALUATE: lambda number, arrays: self._loop.evaluate(number, arrays),
        }
        noted = {name: self._noted(handler) for name, handler in handlers.items()}
        self._peer = Peer(connection, noted, _excuse, self._obey_stop)
        try:
            send_frame(connection, hello)
            ending = self._peer.serve()
        except (PeerGone, OSError) as gone:
            ending = {"refused": f"the ServerApp's process {_ending(process) or gone}"}
        # What the ServerApp makes of the end of its strategy is not how the run ended.
        if self._failed is not None:
            raise self._failed from None
        _raise(ending if isinstance(ending, Mapping) else {})

    def finish(self) -> None:
        """Deliver the model. Raises ``RoundFailed`` where there was no strategy."""
        if self._rounds is None:
            raise RoundFailed(NO_STRATEGY)
        self._this.deliver(self._rounds.keep(), self._facts.app_dir, self._rounds.done)

    def _noted(self, handler: Callable[..., Any]) -> Callable[..., Any]:
        """``handler``, and what ends the run is kept: over there it becomes an exception of another kind."""

        def answer(*given: Any) -> Any:
            try:
                return handler(*given)
            except (RoundFailed, RunStopped, FlipError) as error:
                self._failed = self._failed or error
                raise

        return answer

    # -- what the ServerApp asks for ------------------------------------------------------------------------------

    @property
    def _grid(self) -> FlipGrid:
        """The run's grid, or one for what a ServerApp asks before its strategy starts."""
        return self._this.flip_grid or self._this.open_grid(self._facts)

    @property
    def _loop(self) -> RemoteLoop:
        if self._handling is None or not isinstance(self._handling.strategy, RemoteLoop):
            raise LookupError("no loop of a strategy's own is running")
        return self._handling.strategy

    def _nodes(self) -> list[tuple[int, str]]:
        return [(node.node_id, node.name) for node in self._grid.get_nodes()]

    def _push(self, messages: Iterable[Message]) -> list[str]:
        return list(self._grid.push_messages(list(messages)))

    def _ask(self, messages: Iterable[Message], timeout: float | None) -> tuple[list[str], list[Message]]:
        sent = list(messages)
        replies = list(self._grid.send_and_receive(sent, timeout=timeout))
        return [message.metadata.message_id for message in sent], replies

    def _start(self, said: Mapping[str, Any], given: Mapping[str, Any]) -> Result:
        """In the place of ``strategy.start``: the same rounds, on our grid, told to the hub."""
        if self._rounds is not None or self._failed is not None:
            raise RoundFailed("the ServerApp starts a second strategy; a job has one, put its rounds into one start()")
        assert self._peer is not None
        peer = self._peer

        def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord | None:
            found: MetricRecord | None = peer.call(EVALUATE_FN, number, arrays)
            return found

        try:
            self._handling = RemoteHandling(peer, said)
            facts = replace(
                self._facts,
                num_rounds=given["num_rounds"],
                stages=stages_in({"": given["num_rounds"]}),
                phase_timeout_s=min(self._facts.phase_timeout_s, given["timeout"]),
            )
            how = How(
                given["initial_arrays"],
                given["train_config"],
                given["evaluate_config"],
                evaluate if said["evaluate_fn"] else None,
            )
            self._rounds, result = conduct(self._handling, self._this, facts, how)
        except PeerRefused as refused:
            self._failed = self._failed or _failure(refused.why)
            raise
        except Exception as error:
            self._failed = self._failed or error
            raise
        return result

    def _obey_stop(self) -> None:
        if self._this.reporting.stop_requested:
            raise RunStopped(STOPPED_AT_HUB)


def _hello(app_dir: Path, grid: Grid, context: Context) -> bytes:
    run_id, node_id, task_id = task_identity()
    run = grid.run
    return value_to_bytes(
        {
            "app_dir": str(app_dir.resolve()),
            "identity": {"run_id": run_id, "node_id": node_id, "task_id": task_id},
            "run": {
                "run_id": run.run_id,
                "task_type": run.primary_task_type,
                "run_config": dict(run.override_config),
            },
            "context": {
                "run_id": context.run_id,
                "node_id": context.node_id,
                "node_config": dict(context.node_config),
                "state": context.state,
                "run_config": dict(context.run_config),
            },
        }
    )


@contextlib.contextmanager
def _process(
    folder: Path, environment: Mapping[str, str], gate: ServerGate | None
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """The process in which the ServerApp runs, and our end of the connection to it. At the end nothing is left of it.

    It ends by itself as soon as this process is gone. Raises ``RoundFailed`` where it does not get behind ``gate``.
    """
    with contextlib.ExitStack() as stack:
        connection, theirs = socket_pair()
        stack.enter_context(connection)
        reading, lifeline = os.pipe()
        stack.callback(os.close, lifeline)
        descriptors = [theirs.fileno(), reading]
        program = [guest.__name__, *map(str, descriptors)]
        if gate is not None:
            stack.enter_context(contextlib.closing(gate))
            descriptors.append(gate.descriptor)
            program = [front.__name__, str(gate.descriptor), *program]
        with theirs:
            try:
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", *program],
                    cwd=folder,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
            finally:
                os.close(reading)
        patience_s = HURRY_S
        try:
            if gate is not None:
                _let_in(gate, process)
            yield process, connection
            patience_s = LEAVE_S
        finally:
            connection.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            # The group's number is nobody else's while its leader was not waited for, or something of it is left.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _let_in(gate: ServerGate, process: subprocess.Popen[bytes]) -> None:
    def beyond(problem: str) -> None:
        logger.error("the ServerApp's process was ended: %s", problem)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    try:
        gate.let_in(process.pid, beyond)
    except GuestStopped as stopped:
        raise RoundFailed(f"the ServerApp does not run: {stopped}") from None


def _ending(process: subprocess.Popen[bytes]) -> str:
    """How it ended, in words; nothing where it has not."""
    try:
        code = process.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        return ""
    return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _raise(ending: Mapping[str, Any]) -> None:
    """Raise what the ServerApp's end was, if it was none in good order."""
    if "refused" in ending:
        raise RoundFailed(str(ending["refused"]))
    if "exit" in ending:
        raise RoundFailed(f"the server's code ended its process with sys.exit({ending['exit']})")
    if ending:
        raise _failure(ending)


def _failure(said: Any) -> Exception:
    """What the other process says of an exception, as one of ours."""
    if isinstance(said, Mapping) and "error" in said:
        return answered_error(said)
    told = said.get("failure", {}) if isinstance(said, Mapping) else {}
    kind, text = str(told.get("type", "Exception")), str(told.get("traceback", said))
    return GuestFailed(Failure(slot=SERVER_NAME, task="aggregate", round=0, type=kind, traceback=text))


def _excuse(error: Exception) -> str:
    """What the ServerApp is told of an end of the run."""
    return str(error) if isinstance(error, RoundFailed | RunStopped) else type(error).__name__


def _tell(folder: Path, this: Host) -> None:
    """What the ServerApp itself reported with ``FLIP()`` and the house has not told: failures, and a status ERROR."""
    for _, item in read_journal(folder):
        if isinstance(item, LogItem) and not item.success and item.log:
            this.reporting.reporter.failure(None, item.log)
        elif isinstance(item, StatusItem) and item.status is ModelStatus.ERROR:
            text = "the ServerApp called update_status(ERROR): the run's own status decides"
            this.reporting.reporter.log(text, success=False)
