"""The part of a model that is a site's own and lasts from round to round, whatever process runs the next one."""

from __future__ import annotations

import contextlib
import re
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.app.arrays import read_arrays, replace_arrays
from flip_fl.app.tensors import Arrays

if TYPE_CHECKING:
    from flip_fl.app.site import SiteSpec

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

    def known(self) -> dict[str, Arrays]:
        """Everything that was kept for the job, also by a process before this one."""
        files = self._folder.glob("*.npz") if self._folder is not None else ()
        return {key: self.read(key) for key in (*self._held, *(path.stem for path in files))}

    @staticmethod
    def key(spec: SiteSpec) -> str:
        """Under which a site keeps its own part of the model of one stage."""
        return f"{spec.slot}-{spec.stage}" if spec.stage else spec.slot

    def held(self) -> dict[str, Arrays]:
        """What this object has read or kept, by key."""
        return dict(self._held)

    def clear(self) -> None:
        """The job is over."""
        self._held.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)
