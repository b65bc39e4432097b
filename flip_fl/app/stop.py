"""A stop that a long training sees where its engine has no way of telling it: a file at the site."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

FOLDER = "stop"
CHECK_EVERY_S = 0.2


def stop_file(state_dir: Path, model_id: UUID | str) -> Path:
    """The file whose presence stops the work for this model at a site: ``<state_dir>/stop/<model id>``.

    Raises ``ValueError`` when ``model_id`` is no UUID: it becomes part of a path.
    """
    return state_dir / FOLDER / str(UUID(str(model_id)))


def request_stop(state_dir: Path, model_id: UUID | str) -> Path:
    """Stop the work for ``model_id`` at the site with this state folder, now and whenever it is asked for again.

    Returns the file; who removes it lets the model be trained again. Raises ``OSError`` when it cannot be written.
    """
    path = stop_file(state_dir, model_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch()
    return path


class StopFlag:
    """Whether the work is to stop: one of ``files`` exists, or ``also`` says so. Once true, always true.

    Cheap enough to be asked at every step: the file system is looked at once in ``every_s`` seconds.
    """

    def __init__(
        self,
        files: Sequence[Path] = (),
        also: Callable[[], bool] = lambda: False,
        *,
        every_s: float = CHECK_EVERY_S,
    ) -> None:
        self._files = tuple(files)
        self._also = also
        self._every_s = every_s
        self._next = 0.0
        self._stopped = False

    def __call__(self) -> bool:
        if not self._stopped:
            self._stopped = self._also() or self._found()
        return self._stopped

    def _found(self) -> bool:
        now = time.monotonic()
        if now < self._next:
            return False
        self._next = now + self._every_s
        return any(os.path.exists(path) for path in self._files)  # a folder that may not be read is no stop
