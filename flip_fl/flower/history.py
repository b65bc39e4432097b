"""What the sites measured, round by round: as it is delivered, and as it lies beside a checkpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flip_fl.errors import FlipError
from flip_fl.values import Task

Sites = Mapping[str, Mapping[str, float]]


class History:
    """Of each task and round what every site measured (slot → metric → value); ``cross_site``: of each site's model.

    On disk it is a file of one JSON list a line, ``[task, round, sites]``, of which a later one replaces an earlier
    one of the same round. A checkpoint knows how many bytes of it are its own: each round is written once, where many
    sites and rounds in every checkpoint would soon take longer than the rounds.
    """

    def __init__(self) -> None:
        self.cross_site: Mapping[str, Sites] | None = None
        self._rounds: dict[str, dict[int, Sites]] = {Task.TRAIN.value: {}, Task.VALIDATE.value: {}}
        self._unsaved: list[str] = []
        self._saved = 0

    def note(self, task: str, number: int, sites: Sites) -> None:
        """Keep what ``sites`` measured in a round, in the place of what was kept of that round before."""
        self._rounds[task][number] = sites
        self._unsaved.append(_line(task, number, sites))

    def whole(self) -> dict[str, Any]:
        """All of it as one mapping: task → round → slot → metric → value, and "cross_site" where there is one."""
        found: dict[str, Any] = dict(self._rounds)
        return found if self.cross_site is None else {**found, "cross_site": self.cross_site}

    def save(self, path: Path) -> int:
        """Write to ``path`` what is not there yet; how many bytes of the file are this history. Raises ``OSError``."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as out:
            if out.seek(0, os.SEEK_END) < self._saved:
                # Somebody has removed the file.
                rounds = self._rounds.items()
                self._unsaved = [_line(task, *noted) for task, of_task in rounds for noted in of_task.items()]
                self._saved = 0
            written = "".join(self._unsaved).encode()
            # What stands behind was never a checkpoint's: this process or an earlier one was cut off.
            out.seek(self._saved)
            out.write(written)
            out.truncate()
            out.flush()
            os.fsync(out.fileno())
        self._unsaved, self._saved = [], self._saved + len(written)
        return self._saved

    @classmethod
    def read(cls, path: Path, size: int) -> History:
        """What was saved up to ``size`` bytes. Raises ``FlipError`` E0521 where that cannot be read."""
        history = cls()
        try:
            with path.open("rb") as file:
                text = file.read(size)
            if len(text) != size:
                raise ValueError("cut off")
            for line in text.splitlines():
                task, number, sites = json.loads(line)
                history._rounds[task][number] = sites
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FlipError("E0521", path=path, problem=type(error).__name__) from None
        history._saved = size
        return history


def _line(task: str, number: int, sites: Sites) -> str:
    return json.dumps([task, number, sites]) + "\n"
