"""What the app prints: it may hold rows, and a site's log travels. Counted, not shown."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

_HOUSE = frozenset({"flip_fl", "nvflare", "flwr"})
_SEEN = "flip_withheld"


class Counter(io.TextIOBase):
    """A stream that remembers how many lines were written to it, and nothing of them."""

    def __init__(self) -> None:
        self.lines = 0

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.lines += text.count("\n")
        return len(text)

    def reset(self) -> None:
        """Begin anew: what came so far was not the app's."""
        self.lines = 0

    def warned(self, *args: object, **kwargs: object) -> None:
        """Stands in for ``warnings.showwarning``."""
        self.lines += 1


class _Veto(logging.Filter):
    """Drops log records that the app made, or that a library made on its behalf."""

    def __init__(self, folder: Path, counter: Counter) -> None:
        super().__init__()
        self._folder = folder
        self._counter = counter
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        by_app = Path(record.pathname).is_relative_to(self._folder)
        if not by_app and (record.thread != self._thread or record.name.partition(".")[0] in _HOUSE):
            return True
        if not hasattr(record, _SEEN):  # there may be several handlers
            setattr(record, _SEEN, True)
            self._counter.lines += 1
        return False


@contextlib.contextmanager
def withheld(app_dir: Path, *, active: bool = True) -> Iterator[Counter]:
    """Swallow what the app prints, warns and logs while the block runs; the value counts the lines.

    The engine's threads and the house go on logging: only records of this thread and of the app's files are dropped.
    """
    counter = Counter()
    if not active:
        yield counter
        return
    veto = _Veto(app_dir.resolve(), counter)
    handlers = list(logging.getLogger().handlers)
    for handler in handlers:
        handler.addFilter(veto)
    try:
        with (
            contextlib.redirect_stdout(counter),
            contextlib.redirect_stderr(counter),
            warnings.catch_warnings(),
        ):
            warnings.showwarning = counter.warned
            yield counter
    finally:
        for handler in handlers:
            handler.removeFilter(veto)
