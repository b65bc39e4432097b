"""What the app prints: it may hold rows, and a site's log travels. Counted, not shown."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path


class _Counter(io.TextIOBase):
    """A stream that remembers how many lines were written to it, and nothing of them."""

    def __init__(self) -> None:
        self.lines = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return len(text)


class _NotFrom(logging.Filter):
    """Drops the log records that were made by files below ``folder``."""

    def __init__(self, folder: Path, counter: _Counter) -> None:
        super().__init__()
        self._folder = folder
        self._counter = counter

    def filter(self, record: logging.LogRecord) -> bool:
        if not Path(record.pathname).is_relative_to(self._folder):
            return True
        self._counter.lines += 1
        return False


@contextlib.contextmanager
def withheld(app_dir: Path, *, active: bool = True) -> Iterator[_Counter]:
    """Swallow what the app prints, warns and logs while the block runs; the value counts the lines.

    Handlers of the engine keep working: only records made by the app's own files are dropped.
    """
    counter = _Counter()
    if not active:
        yield counter
        return
    veto = _NotFrom(app_dir.resolve(), counter)
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(veto)
    try:
        with contextlib.redirect_stdout(counter), contextlib.redirect_stderr(counter):
            yield counter
    finally:
        for handler in handlers:
            handler.removeFilter(veto)
