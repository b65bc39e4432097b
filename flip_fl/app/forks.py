"""Child processes that begin with everything loaded: torch takes seconds to import, a fork milliseconds."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LENGTH = struct.Struct("!I")
MAX_DESCRIPTORS = 8
NEVER_S = 1e9
SHARED = "shared"
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])


class Fork:
    """One forked child, leader of a process group of its own. ``close`` kills what is left of the group.

    Not for several threads.
    """

    def __init__(self, status: socket.socket) -> None:
        self._status = status
        self._said = b""
        self._pid: int | None = None
        self._returncode: int | None = None
        self._over = False
        self.problem = ""

    @property
    def pid(self) -> int:
        """Its process id; waits until the child is there. Raises ``ChildProcessError`` when it could not be made."""
        while self._pid is None and not self._over:
            self._read(None)
        if self._pid is None:
            raise ChildProcessError(self.problem or "the process was not started")
        return self._pid

    @property
    def started(self) -> bool:
        """Whether the child is known to be, or to have been, there."""
        self.ended()
        return self._pid is not None

    @property
    def returncode(self) -> int:
        """How it ended: as ``subprocess`` says it; -SIGKILL also when nobody is left to say."""
        return -signal.SIGKILL if self._returncode is None else self._returncode

    def fileno(self) -> int:
        """A descriptor that can be read when there is something new about the child: call ``ended`` then."""
        return self._status.fileno()

    def ended(self) -> bool:
        """Whether the child has ended; does not wait."""
        while not self._over and self._read(0.0):
            pass
        return self._over

    def wait(self, timeout_s: float) -> bool:
        """Wait for the end, ``timeout_s`` seconds at the most; whether it has come."""
        end = time.monotonic() + timeout_s
        while not self._over and (left := end - time.monotonic()) > 0:
            self._read(left)
        return self.ended()

    def kill(self) -> None:
        """Kill the child and all that it started. Its number is its own until ``close``."""
        if self.started:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Let go of the child: whatever of it still runs is killed."""
        self._over = True
        self._status.close()

    def _read(self, timeout_s: float | None) -> bool:
        """Take what was said about the child; whether there was something."""
        waiting = select.poll()
        waiting.register(self._status, select.POLLIN)
        if not waiting.poll(None if timeout_s is None else timeout_s * 1000):
            return False
        try:
            data = self._status.recv(4096)
        except ConnectionError:
            data = b""
        if not data:
            self._over = True
            return True
        *lines, self._said = (self._said + data).split(b"\n")
        for line in lines:
            word, _, value = line.decode().partition(" ")
            if word == "pid":
                self._pid = int(value)
            elif word == "end":
                self._returncode, self._over = int(value), True
            else:
                self.problem, self._over = value, True
        return True


class ForkServer:
    """A process that loads ``modules`` (those that exist) in their order and forks children; it is started at once.

    A child whose module is one of them is forked as soon as that is loaded, with all that stands before it.

    ``env`` is the server's whole environment but for ``PYTHONPATH``: what libraries read while they are imported comes
    from there, whatever a child's environment says. It never runs anything but imports: what one child does is unknown
    to the next. It ends when this process does, when it is closed, or when it had nothing to do for ``idle_s``.

    Raises ``OSError`` when no process can be started.
    """

    _process: subprocess.Popen[bytes] | None

    def __init__(self, modules: Sequence[str], env: Mapping[str, str], *, idle_s: float = NEVER_S) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._control, theirs = socket.socketpair()
        path = os.pathsep.join(filter(None, (_PACKAGE_ROOT, env.get("PYTHONPATH"))))
        command = [sys.executable, "-P", "-u", "-m", "flip_fl.app.forkserver", str(theirs.fileno()), str(idle_s)]
        try:
            with theirs:
                self._process = subprocess.Popen(
                    [*command, *modules],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**env, "PYTHONPATH": path},
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
        except OSError:
            self._control.close()
            raise

    @classmethod
    def joined(cls, control: socket.socket) -> ForkServer:
        """The server of another process, which has ``share``d it: it ends with that one."""
        server = cls.__new__(cls)
        server._lock, server._owner = threading.Lock(), os.getpid()
        server._control, server._process = control, None
        return server

    def share(self) -> socket.socket:
        """A way to this server for another process, which makes it one by ``joined``. Raises ``OSError``."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._ask({SHARED: True}, [theirs.fileno()])
            except OSError:
                ours.close()
                raise
        return ours

    @property
    def pid(self) -> int:
        assert self._process is not None, "only whoever started it knows"
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Whether this very process may still ask it: a forked copy of the asker may not."""
        return self._owner == os.getpid() and (self._process is None or self._process.poll() is None)

    def fork(
        self,
        module: str,
        argv: Sequence[str | int],
        env: Mapping[str, str],
        *,
        cwd: Path,
        output: int | None = None,
        descriptors: Sequence[int] = (),
    ) -> Fork:
        """A child that runs ``main(argv)`` of ``module``; an int in ``argv`` stands for that one of ``descriptors``.

        ``env`` is its whole environment, ``output`` the descriptor of its standard output and error (default: none).
        Returns at once. Raises ``OSError`` when the server is gone.
        """
        ours, theirs = socket.socketpair()
        with theirs, open(os.devnull, "wb") as nowhere:
            given = [theirs.fileno(), nowhere.fileno() if output is None else output, *descriptors]
            try:
                self._ask({"module": module, "argv": list(argv), "env": dict(env), "cwd": str(cwd)}, given)
            except OSError:
                ours.close()
                raise
        return Fork(ours)

    def close(self) -> None:
        """End the server and every child of it."""
        self._control.close()
        if self._process is None:
            return
        try:
            self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            # It still imports: nothing of its own is lost.
            self._process.kill()
            self._process.wait()

    def _ask(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> None:
        text = json.dumps(request).encode()
        with self._lock:
            # The descriptors go with the length, which arrives whole.
            socket.send_fds(self._control, [LENGTH.pack(len(text))], list(descriptors))
            self._control.sendall(text)
