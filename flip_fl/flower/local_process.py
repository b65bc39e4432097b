"""A site in a process of its own: forked once, kept for all rounds, gone when the server's process is gone."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flwr.app import Message, UserConfigValue

from flip_fl.app.forks import Fork, ForkServer
from flip_fl.errors import FlipError
from flip_fl.flower.local_pipe import BrokenFrame, FrameReader, FrameWriter, socket_pair
from flip_fl.flower.local_site import CLOSE_GRACE_S, lost
from flip_fl.flower.local_warm import WORKER
from flip_fl.flower.private import envelope, message_from_bytes, message_to_bytes, new_id
from flip_fl.flower.protocol import STOP_FILE

CLOSING_S = 1.0
_OUT_OF_MEMORY = "; a machine that runs out of memory does this"


class ProcessSite:
    """A site whose ClientApp runs in a child process, forked by ``forks``.

    ``job_dir`` is a Flower app (``pyproject.toml`` names its ClientApp). ``env`` is the child's whole environment, so
    what the server may know and a site may not is for the caller to leave out. What the app prints goes to
    ``<log_dir>/<slot>.log``. When the process ends, every message it had is answered at once with ``LOST`` and how it
    ended, and so is every later one.
    """

    def __init__(
        self,
        slot: str,
        job_dir: Path,
        run_config: Mapping[str, UserConfigValue] | None = None,
        node_config: Mapping[str, UserConfigValue] | None = None,
        *,
        forks: ForkServer,
        env: Mapping[str, str],
        log_dir: Path,
        cwd: Path | None = None,
        node_id: int | None = None,
    ) -> None:
        self.slot = slot
        self.node_id = new_id() if node_id is None else node_id
        self._asked: deque[Message] = deque()
        self._unsent: deque[bytes] = deque()
        self._answers: deque[Message] = deque()
        self._ended = ""
        self._closed = self._gone = False
        with contextlib.ExitStack() as opened:
            self._stop_file = log_dir / f".{slot}.stop"
            # One that a killed run has left behind would stop this one.
            self._stop_file.unlink(missing_ok=True)
            opened.callback(self._stop_file.unlink, missing_ok=True)
            self._connection, theirs = socket_pair()
            opened.callback(self._connection.close)
            with theirs:
                # The child holds the reading end and never reads a byte: it ends when this process, however it dies,
                # no longer holds the other.
                reading, lifeline = os.pipe()
                opened.callback(os.close, lifeline)
                try:
                    self._process = _start(forks, slot, theirs.fileno(), reading, env, log_dir, cwd or Path.cwd())
                finally:
                    os.close(reading)
            opened.callback(self._process.close)
            self._opened = opened.pop_all()
        self._connection.setblocking(False)
        self._reader = FrameReader(self._connection)
        self._writer = FrameWriter(self._connection)
        hello: dict[str, Any] = {
            "slot": slot,
            "node_id": self.node_id,
            "parent": forks.pid,
            "job_dir": str(Path(job_dir).resolve()),
            "run_config": dict(run_config or {}),
            "node_config": {"slot": slot, **(node_config or {}), STOP_FILE: str(self._stop_file)},
        }
        self._writer.put(json.dumps(hello).encode())
        self._pump()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def ready(self) -> bool:
        return bool(self._answers)

    def handles(self) -> list[tuple[int, int]]:
        if self._ended or self._closed:
            return []
        writing = 0 if self._writer.idle else selectors.EVENT_WRITE
        return [
            (self._connection.fileno(), selectors.EVENT_READ | writing),
            (self._process.fileno(), selectors.EVENT_READ),
        ]

    def submit(self, message: Message) -> None:
        data = message_to_bytes(message)
        self._asked.append(envelope(message))
        if self._ended or self._closed:
            self._answer_lost()
            return
        # One at a time: what waits behind a long task costs no second copy in the socket and in the child.
        if len(self._asked) == 1:
            self._writer.put(data)
            self._pump()
        else:
            self._unsent.append(data)

    def poll(self) -> Message | None:
        if not self._ended and not self._closed:
            self._pump()
        return self._answers.popleft() if self._answers else None

    def stop(self) -> None:
        """Ask the running task to end early; a process that does not know how ignores it."""
        if not self._ended and not self._closed:
            self._stop_file.touch()

    def dismiss(self) -> None:
        if self._closed:
            return
        self._closed = True
        if not self._ended:
            if self._asked:
                self._stop_file.touch()
            self._connection.close()

    def close(self, grace_s: float = CLOSE_GRACE_S) -> None:
        """End the process: at once when it is idle, else after its task or ``grace_s`` seconds, then by SIGKILL."""
        self.dismiss()
        if not self._gone:
            self._gone = True
            if not self._ended:
                self._end(grace_s)
            self._opened.close()

    def _pump(self) -> None:
        """Move what can be moved without waiting, and see whether the process is still there."""
        # Looked at first: what it wrote before it ended is then all there to be read.
        ended = self._process.ended()
        try:
            with contextlib.suppress(ConnectionError):
                self._writer.write()
            while (frame := self._reader.read()) is not None:
                self._take(message_from_bytes(frame))
                with contextlib.suppress(ConnectionError):
                    self._writer.write()
        except (BrokenFrame, ValueError) as error:
            self._lose(f"answered with something that is no message ({error}) and was ended")
            return
        if ended or self._reader.closed:
            # A process that closed its end is at its end, too: it gets a moment to say how.
            self._end(0.0 if ended else CLOSING_S)
            self._lose(_ending(self._process))

    def _take(self, reply: Message) -> None:
        if not self._asked or reply.metadata.reply_to_message_id != self._asked[0].metadata.message_id:
            raise ValueError("not the reply that is due")
        if reply.metadata.src_node_id != self.node_id:
            raise ValueError("a reply in another's name")
        self._asked.popleft()
        self._answers.append(reply)
        if self._unsent:
            self._writer.put(self._unsent.popleft())

    def _lose(self, how: str) -> None:
        self._end(0.0)
        self._ended = f"the process of {self.slot} {how}"
        self._answer_lost()

    def _answer_lost(self) -> None:
        self._unsent.clear()
        why = self._ended or f"the process of {self.slot} has been closed"
        while self._asked:
            self._answers.append(lost(self._asked.popleft(), self.slot, why))

    def _end(self, grace_s: float) -> None:
        """Wait ``grace_s`` for the process, then kill it and all that it started."""
        self._process.wait(grace_s)
        self._process.kill()
        self._process.wait(CLOSING_S)


def _start(
    forks: ForkServer, slot: str, connection: int, lifeline: int, env: Mapping[str, str], log_dir: Path, cwd: Path
) -> Fork:
    log_dir.mkdir(parents=True, exist_ok=True)
    log = log_dir / f"{slot}.log"
    argv: list[str | int] = ["--slot", slot, 0, 1, 2]
    try:
        with log.open("ab") as out, forks.share() as shared:
            given = (connection, lifeline, shared.fileno())
            return forks.fork(WORKER, argv, env, cwd=cwd, output=out.fileno(), descriptors=given)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FlipError("E0506", problem=f"{slot} cannot be started", reason=reason, log=log) from None


def _ending(process: Fork) -> str:
    if process.problem:
        return f"could not be started ({process.problem})"
    code = process.returncode
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"was killed by signal {-code} ({name}{_OUT_OF_MEMORY if -code == signal.SIGKILL else ''})"
