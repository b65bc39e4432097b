"""The part of a model that is a site's own and lasts from round to round, whatever process runs the next one."""

from __future__ import annotations

import contextlib
import re
import shutil
import zipfile
from pathlib import Path

from flip_fl.app.arrays import read_arrays, replace_arrays
from flip_fl.app.tensors import Arrays

FOLDER = "local"


class LocalState:
    """Arrays by key (a slot and its stage), for one job. Without ``state_dir`` they live as long as this object."""

    def __init__(self, state_dir: Path | None, job: str) -> None:
        self._folder = state_dir / FOLDER / _plain(job) if state_dir is not None and job else None
        self._held: dict[str, Arrays] = {}

    def read(self, key: str) -> Arrays:
        """What was kept under ``key``; empty when there is nothing that can be read."""
        if key not in self._held and self._folder is not None:
            with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                self._held[key] = read_arrays(self._folder / f"{_plain(key)}.npz")
        return dict(self._held.get(key, {}))

    def keep(self, key: str, arrays: Arrays) -> None:
        """Keep ``arrays`` under ``key``, on disk where there is a folder. Raises ``OSError``."""
        self._held[key] = dict(arrays)
        if self._folder is not None:
            replace_arrays(self._folder / f"{_plain(key)}.npz", arrays)

    def clear(self) -> None:
        """The job is over."""
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
