"""A process that has loaded what its children need and forks one for each request: ``app.forks`` is the way to it.

    python -m flip_fl.app.forkserver CONTROL IDLE_S MODULE...      (CONTROL: the number of an inherited socket)

A child is forked as soon as its own module is loaded, with all that stands before it; one whose module is not in the
list, when everything is. A request is one JSON line with the descriptors that belong to it: a status socket first,
then standard output, then the child's own. The status socket is told ``pid N`` and, at its end, ``end CODE``. It is
also the child's life: when the other side closes it, the child and all that it started are killed. Only then is its
number given back.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flip_fl.app.forks import LENGTH, MAX_DESCRIPTORS, SHARED
from flip_fl.app.leaving import leave

# The system takes no time-out of many days.
LONGEST_WAIT_S = 3600.0


@dataclass(frozen=True)
class Task:
    """What a forked child does: ``main(argv)`` of ``module``; its result is the exit code."""

    module: str
    argv: list[str]


@dataclass
class _Running:
    pid: int
    status: socket.socket
    ended: bool = False


class _Children:
    """The children that are not given back yet."""

    def __init__(self) -> None:
        self._running: dict[socket.socket, _Running] = {}

    def __bool__(self) -> bool:
        return bool(self._running)

    def add(self, pid: int, status: socket.socket) -> None:
        self._running[status] = _Running(pid, status)

    def sockets(self) -> list[socket.socket]:
        return list(self._running)

    def tell_ends(self) -> None:
        """Tell those that wait for a child that it has ended; its number stays its own until they let go."""
        for child in self._running.values():
            if child.ended:
                continue
            found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None:
                continue
            child.ended = True
            code = found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
            with contextlib.suppress(OSError):
                child.status.sendall(b"end %d\n" % code)

    def let_go(self, status: socket.socket) -> None:
        """Kill the child of ``status`` with all that it started, and give its number back."""
        child = self._running.pop(status)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        status.close()

    def close(self) -> None:
        for status in self.sockets():
            self.let_go(status)


class _Modules:
    """What is to be loaded, in order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = frozenset(names)
        self._left = list(names)

    def __bool__(self) -> bool:
        """Whether there is more to load."""
        return bool(self._left)

    def load_next(self) -> None:
        """Load one. Whoever needs one that is not there says so in the child."""
        with contextlib.suppress(ImportError):
            importlib.import_module(self._left.pop(0))

    def suffice_for(self, module: str) -> bool:
        """Whether a child that runs ``module`` has all that it shall find: what stands before it, else everything."""
        return not self._left or (module in self._names and module not in self._left)


@dataclass(frozen=True)
class _Request:
    """One that is answered as soon as enough is loaded."""

    told: dict[str, Any]
    descriptors: list[int]


class _Server:
    """The sockets of those that may ask, and the children they have got."""

    def __init__(self, control: socket.socket, modules: _Modules, idle_s: float) -> None:
        self._first, self._controls = control, {control}
        self._modules = modules
        self._idle_s, self._idle_since = idle_s, time.monotonic()
        self._children = _Children()
        self._waiting: list[_Request] = []
        self._waking, self._wake = socket.socketpair()
        for end in (self._waking, self._wake):
            end.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        self._selector = selectors.DefaultSelector()
        for each in (control, self._waking):
            self._selector.register(each, selectors.EVENT_READ)

    def serve(self) -> Task | None:
        """Load and answer until nobody can ask, or for ``idle_s`` nobody did. In a child: what it is to do."""
        while True:
            events = self._selector.select(self._patience())
            for key, _ in events:
                assert isinstance(key.fileobj, socket.socket)
                if key.fileobj is self._waking:
                    with contextlib.suppress(BlockingIOError):
                        self._waking.recv(4096)
                elif key.fileobj not in self._controls:
                    self._selector.unregister(key.fileobj)
                    self._children.let_go(key.fileobj)
                elif not self._hear(key.fileobj):
                    self._children.close()
                    return None
            self._children.tell_ends()
            # Whoever has asked is heard first: while a module is loaded nobody is.
            if self._modules and not events:
                self._modules.load_next()
            while (request := self._next()) is not None:
                if (task := self._answer(request)) is not None:
                    return task
            if self._children or self._waiting or self._modules:
                self._idle_since = time.monotonic()
            elif time.monotonic() - self._idle_since >= self._idle_s:
                return None

    def _patience(self) -> float:
        if self._modules:
            return 0.0
        return min(max(0.0, self._idle_since + self._idle_s - time.monotonic()), LONGEST_WAIT_S)

    def _hear(self, control: socket.socket) -> bool:
        """Take what was asked there; False when the process is gone that started this one."""
        told, descriptors = _receive(control)
        if told is None:
            if control is self._first:
                return False
            # One that it was shared with is gone; its children go by their own sockets.
            self._selector.unregister(control)
            self._controls.remove(control)
            control.close()
        elif SHARED in told:
            another = socket.socket(fileno=descriptors[0])
            self._controls.add(another)
            self._selector.register(another, selectors.EVENT_READ)
        else:
            self._waiting.append(_Request(told, descriptors))
        return True

    def _next(self) -> _Request | None:
        """Take one that can be answered."""
        for number, request in enumerate(self._waiting):
            if self._modules.suffice_for(request.told["module"]):
                return self._waiting.pop(number)
        return None

    def _answer(self, request: _Request) -> Task | None:
        """Fork for it; a task in the child."""
        # What is loaded stays shared: a collection in a child would write to every page.
        gc.freeze()
        status = socket.socket(fileno=request.descriptors[0])
        pid = _fork(status)
        if pid == 0:
            self._leave(status)
            return _become(request.told, request.descriptors[1:])
        for descriptor in request.descriptors[1:]:
            os.close(descriptor)
        if pid is None:
            status.close()
        else:
            self._children.add(pid, status)
            self._selector.register(status, selectors.EVENT_READ)
        return None

    def _leave(self, status: socket.socket) -> None:
        """In a child: keep nothing that is the server's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for open_one in (*self._controls, self._waking, self._wake, status, *self._children.sockets()):
            open_one.close()
        for other in self._waiting:
            for descriptor in other.descriptors:
                os.close(descriptor)
        self._selector.close()
        gc.enable()


def main(argv: Sequence[str]) -> int:
    """Load the modules and fork on request; returns in the server at its end, and in each child at the child's."""
    control = socket.socket(fileno=int(argv[0]))
    control.set_inheritable(False)
    # Imports leave little to collect and take a sixth longer with it; what is asked for is as good as nothing.
    gc.disable()
    task = _Server(control, _Modules(argv[2:]), float(argv[1])).serve()
    return 0 if task is None else int(importlib.import_module(task.module).main(task.argv) or 0)


def _receive(control: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """The next request with its descriptors; None when nobody can make another."""
    try:
        head, descriptors, _, _ = socket.recv_fds(control, LENGTH.size, MAX_DESCRIPTORS)
        if not head:
            return None, []
        (length,) = LENGTH.unpack(head)
        data = control.recv(length, socket.MSG_WAITALL)
    except ConnectionError:
        return None, []
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    return (json.loads(data), list(descriptors)) if len(data) == length else (None, [])


def _fork(status: socket.socket) -> int | None:
    """Fork and tell the pid; 0 in the child, None when there is none (told, too)."""
    try:
        pid = os.fork()
    except OSError as error:
        with contextlib.suppress(OSError):
            status.sendall(f"error {error.strerror or error}\n".encode())
        return None
    if pid:
        # Also done by the child: whoever is first, the group is there when it is first to be killed.
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        with contextlib.suppress(OSError):
            status.sendall(b"pid %d\n" % pid)
    return pid


def _become(request: dict[str, Any], descriptors: list[int]) -> Task:
    """Give this process the session, environment, folder and descriptors of the request."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    output = descriptors[0]
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["env"])
    # Both were chosen for the server's process.
    tempfile.tempdir = None
    time.tzset()
    os.chdir(request["cwd"])
    own = descriptors[1:]
    argv = [str(own[word]) if isinstance(word, int) else word for word in request["argv"]]
    sys.argv = [request["module"], *argv]
    return Task(request["module"], argv)


if __name__ == "__main__":
    try:
        leave(main(sys.argv[1:]))
    except SystemExit as left:
        if isinstance(left.code, str):
            sys.stderr.write(f"{left.code}\n")
        leave(left.code if isinstance(left.code, int) else int(left.code is not None))
    except BaseException:
        traceback.print_exc()
        leave(1)
