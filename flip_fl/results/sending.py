"""Results on their way to the store: sent, read back, and sent again while that may help."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from flip_fl.errors import ResultsUploadError
from flip_fl.results.parts import Check
from flip_fl.results.s3 import ResultsStore, Stored, is_passing

# Each request is made up to four times by itself; with these a store may be away for about a minute.
WAITS_S = (2.0, 10.0, 30.0)
POLL_S = 0.2


def send(
    store: ResultsStore,
    chunks: Callable[[], Iterable[bytes]],
    model_id: UUID,
    *,
    size_bytes: int = 0,
    check: Check = lambda: None,
    waits_s: Sequence[float] = WAITS_S,
) -> Stored:
    """Store what ``chunks()`` yields and read it back: where it lies. The arguments are those of ``upload``.

    Raises ``ResultsUploadError``, with the cause chained, when it is not stored as it was sent, however often.
    """
    stored: Stored | None = None
    try:
        for wait_s in (*waits_s, None):
            try:
                if stored is None:
                    stored = store.upload(chunks, model_id, size_bytes=size_bytes, check=check)
                store.confirm(stored, check)
                check()
                return stored
            except ResultsUploadError as error:
                if error.__cause__ is None:
                    stored = None  # something else was stored, and is gone
                if wait_s is None or not is_passing(error):
                    raise
            _pause(wait_s or 0.0, check)
    except BaseException:
        # Of a run that was stopped, or whose bundle nobody could read, nothing may look like results.
        if stored is not None:
            store.discard(stored)
        raise
    raise AssertionError("unreachable: the last attempt returns or raises")


def _pause(seconds: float, check: Check) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        check()
        time.sleep(min(POLL_S, left))
