"""What a guest may have beyond its own folders: files that it was handed, opened by the process it works for, and
processes, as long as they are not too many.

Landlock's rules are fixed when a process enters them, and a study is asked for later. So each opening of a file is told
here first (``man 2 seccomp_unotify``): what lies in a folder that was granted is opened here, for reading, and given;
of everything else the kernel decides by its own rules. What the guest writes into its path meanwhile gains nothing:
the path that was checked is the one that is opened.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import struct
import threading
from pathlib import Path

from flip_fl.app.isolation.seccomp import machine
from flip_fl.app.isolation.watching import processes_of

_RECEIVE, _SEND, _GIVE = 0xC0502100, 0xC0182101, 0x40182103
_REQUEST = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_GIVEN = struct.Struct("=QIIII")
_CONTINUE = 1
_GIVE_AND_ANSWER = 1 << 1
_AT_FDCWD = -100
_PATH_MAX = 4096
_PAGE = 4096
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Opener:
    """Answers the guest ``pid`` and what it started, until all are gone. ``grant`` from any thread.

    No more than ``processes`` of them are there at once: starting another one fails, as it does where the system has
    no room for one.
    """

    def __init__(self, listener: int, pid: int, processes: int) -> None:
        self._listener = listener
        self._pid, self._processes = pid, processes
        self._granted: set[str] = set()
        known = machine()
        assert known is not None
        self._relative_to_nothing = known.opening.get("open", -1)
        self._opening = frozenset(known.opening.values())
        threading.Thread(target=self._serve, name="flip-opener", daemon=True).start()

    def grant(self, folder: Path) -> None:
        """Let the guest read what lies in ``folder``, links out of it excepted."""
        self._granted |= {os.path.abspath(folder), os.path.realpath(folder)}

    def _serve(self) -> None:
        waiting = select.poll()
        waiting.register(self._listener, select.POLLIN)
        try:
            while not any(events & (select.POLLHUP | select.POLLERR) for _, events in waiting.poll()):
                request = bytearray(_REQUEST.size)
                try:
                    fcntl.ioctl(self._listener, _RECEIVE, request)
                except OSError:
                    continue  # whoever asked is gone
                with contextlib.suppress(OSError):
                    self._answer(*_REQUEST.unpack(request))
        finally:
            os.close(self._listener)

    def _answer(self, number: int, pid: int, _flags: int, call: int, _arch: int, _at: int, *words: int) -> None:
        if call not in self._opening:
            full = processes_of(self._pid, self._processes) >= self._processes
            answer = (0, -errno.EAGAIN, 0) if full else (0, 0, _CONTINUE)
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(number, *answer))
            return
        given = -1
        with contextlib.suppress(OSError, ValueError):
            given = self._opened(pid, call, words)
        if given < 0:
            fcntl.ioctl(self._listener, _SEND, _ANSWER.pack(number, 0, 0, _CONTINUE))
            return
        try:
            # The number is the guest's own; what it starts inherits it only where it has asked for that.
            flags = words[1] if call == self._relative_to_nothing else words[2]
            close = flags & os.O_CLOEXEC
            fcntl.ioctl(self._listener, _GIVE, _GIVEN.pack(number, _GIVE_AND_ANSWER, given, 0, close))
        finally:
            os.close(given)

    def _opened(self, pid: int, call: int, words: tuple[int, ...]) -> int:
        """A descriptor for what was asked for; -1 where the kernel shall decide."""
        if not self._granted:
            return -1
        place, address, flags = (
            (_AT_FDCWD, words[0], words[1]) if call == self._relative_to_nothing else (_signed(words[0]), *words[1:3])
        )
        if flags & _WRITING:
            return -1
        path = _text(pid, address)
        if not path.startswith("/"):
            base = os.readlink(f"/proc/{pid}/cwd" if place == _AT_FDCWD else f"/proc/{pid}/fd/{place}")
            path = os.path.join(base, path)
        if not self._lies_in(os.path.normpath(path)):
            return -1
        real = os.path.realpath(path, strict=True)
        if not self._lies_in(real):
            return -1
        # It may be a pipe: to open that would wait.
        kept = flags & os.O_DIRECTORY
        found = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | kept)
        mode = os.fstat(found).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or os.readlink(f"/proc/self/fd/{found}") != real:
            os.close(found)
            return -1
        return found

    def _lies_in(self, path: str) -> bool:
        while len(path) > 1:
            if path in self._granted:
                return True
            path = os.path.dirname(path)
        return False


def _text(pid: int, address: int) -> str:
    """The text at ``address`` of another process. Raises ``OSError``, ``ValueError`` where it does not end."""
    found = b""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        while len(found) < _PATH_MAX:
            at = address + len(found)
            piece = os.pread(memory.fileno(), _PAGE - at % _PAGE, at)
            text, end, _ = piece.partition(b"\0")
            found += text
            if end:
                return os.fsdecode(found)
            if not piece:
                break
    raise ValueError("no end")


def _signed(word: int) -> int:
    low = word & 0xFFFFFFFF
    return low - (1 << 32) if low & (1 << 31) else low
