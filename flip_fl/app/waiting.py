"""What a person sees while a site waits for many things: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

TALK_EVERY_S = 10.0

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def shown_progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields what to call with the number that is done. Counts only: nothing is shown of what they are."""
    stream = sys.__stderr__
    if stream is not None and stream.isatty() and total > 1:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(file=stream), transient=True) as bar:
            task = bar.add_task(what, total=total)
            yield lambda done: bar.update(task, completed=done)
        return
    spoken = time.monotonic()

    def tell(done: int) -> None:
        nonlocal spoken
        if time.monotonic() - spoken >= TALK_EVERY_S:
            spoken = time.monotonic()
            logger.info("%s: %d of %d", what, done, total)

    yield tell
