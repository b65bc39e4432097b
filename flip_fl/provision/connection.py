"""Whether a site that runs is connected to its server: kept by what runs it, in its ``state/``, for whoever asks.

Engines say it in their logs alone, and Flower's has no times: so the log is followed while it is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from flip_fl.provision.certificates import replace_file
from flip_fl.provision.kit import Kit
from flip_fl.provision.kit_process import STATE

CONNECTION = "connection.json"
EVERY_S = 2.0


@dataclass(frozen=True)
class Connection:
    """``at``: since when it is connected, or when it was tried last, in seconds since the epoch."""

    connected: bool
    at: float

    def then(self, connected: bool, tried_at: float, now: float) -> Connection:
        """What is true ``now``; a connection that holds keeps its beginning."""
        if connected:
            return self if self.connected else Connection(connected=True, at=now)
        return Connection(connected=False, at=now if self.connected else tried_at)


class Reader(Protocol):
    """One engine's log: takes each of its lines once, as it is written."""

    tried_at: float

    def read(self, line: str, now: float) -> None:
        """The engine has written ``line``."""
        ...

    def connected(self, now: float) -> bool:
        """By all that was read."""
        ...


class SuperNodeLog:
    """Flower's (1.41): a SuperNode asks for work every three seconds, and says when that fails and when it works again.

    What is sent into nothing fails after 30 s.
    """

    _UP = ("SuperNode ID:", "Connection successful after")
    _DOWN = ("Starting Flower SuperNode", "Connection attempt failed")

    def __init__(self, now: float) -> None:
        self.tried_at = now
        self._up = False

    def read(self, line: str, now: float) -> None:
        if any(words in line for words in self._UP):
            self._up = True
        elif any(words in line for words in self._DOWN):
            self._up, self.tried_at = False, now

    def connected(self, now: float) -> bool:
        return self._up


def connection_words(kit: Kit, log: str) -> str:
    """What ``--status`` says of a site that runs; ``log`` is where more of it stands."""
    record = kit.record
    where = f"{kit.host}:{record.port}" if record is not None else str(kit.host)
    try:
        told = json.loads((kit.folder / STATE / CONNECTION).read_text(encoding="utf-8"))
        at = f"{datetime.fromtimestamp(float(told['at']), UTC):%Y-%m-%d %H:%M:%S} UTC"
        connected = told["connected"] is True
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return f"connection to {where} unknown; see {log}"
    return f"connected to {where} since {at}" if connected else f"not connected to {where}: last tried {at}; see {log}"


@contextlib.contextmanager
def followed(kit: Kit, log: Path, reader: Reader) -> Iterator[None]:
    """Keep the file true while the block runs, by what is written to ``log`` from now on; then take it away."""
    path = kit.folder / STATE / CONNECTION
    path.unlink(missing_ok=True)
    over = threading.Event()
    lines = Lines(log)
    thread = threading.Thread(target=_follow, args=(path, lines, reader, over), name="connection", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)


def _follow(path: Path, lines: Lines, reader: Reader, over: threading.Event) -> None:
    kept: Connection | None = None
    try:
        while True:
            now = time.time()
            for line in lines.new():
                reader.read(line, now)
            before = kept or Connection(connected=False, at=0.0)
            found = before.then(reader.connected(now), reader.tried_at, now)
            if found != kept:
                kept = found
                replace_file(path, json.dumps(asdict(found)).encode())
            if over.wait(EVERY_S):
                return
    except OSError:
        # A disk that is full must not end the site: nothing is known, and that is said.
        pass
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            lines.close()


class Lines:
    """The whole lines that are written to ``path`` after this was made, also when it is put aside and begun anew."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._rest = b""
        with contextlib.suppress(FileNotFoundError):
            self._file = path.open("rb")
            self._file.seek(0, os.SEEK_END)

    def new(self) -> Iterator[str]:
        """Those that were not given yet."""
        yield from self._read()
        if self._is_another():
            self.close()
            with contextlib.suppress(FileNotFoundError):
                self._file = self._path.open("rb")
            yield from self._read()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file, self._rest = None, b""

    def _read(self) -> Iterator[str]:
        if self._file is None:
            return
        *whole, self._rest = (self._rest + self._file.read()).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace")

    def _is_another(self) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        if self._file is None:
            return True
        ours = os.fstat(self._file.fileno())
        return (there.st_ino, there.st_dev) != (ours.st_ino, ours.st_dev) or there.st_size < self._file.tell()
