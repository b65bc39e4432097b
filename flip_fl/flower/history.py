"""What the sites measured, round by round: as it is delivered, and as a checkpoint keeps it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flip_fl.values import Task

Sites = Mapping[str, Mapping[str, float]]


class History:
    """Of each task and round what every site measured (slot → metric → value); ``cross_site``: of each site's model.

    A round is written as JSON when it is noted, and never again: a checkpoint holds all rounds, and with many sites
    and rounds it would take longer than the round to write all of them anew.
    """

    def __init__(self) -> None:
        self.cross_site: Mapping[str, Sites] | None = None
        self._rounds: dict[str, dict[int, Sites]] = {Task.TRAIN.value: {}, Task.VALIDATE.value: {}}
        self._texts: dict[str, dict[int, str]] = {task: {} for task in self._rounds}

    def note(self, task: str, number: int, sites: Sites) -> None:
        """Keep what ``sites`` measured in a round, in the place of what was kept of that round before."""
        self._rounds[task][number] = sites
        self._texts[task][number] = json.dumps(sites)

    def whole(self) -> dict[str, Any]:
        """All of it as one mapping: task → round → slot → metric → value, and "cross_site" where there is one."""
        found: dict[str, Any] = dict(self._rounds)
        return found if self.cross_site is None else {**found, "cross_site": self.cross_site}

    def to_json(self) -> str:
        """The rounds, for ``read``."""
        tasks = []
        for task, texts in self._texts.items():
            rounds = ", ".join(f'"{number}": {text}' for number, text in texts.items())
            tasks.append(f'"{task}": {{{rounds}}}')
        return f"{{{', '.join(tasks)}}}"

    @classmethod
    def read(cls, text: str) -> History:
        """What ``to_json`` wrote. Raises ``ValueError``, ``KeyError`` or ``AttributeError`` for anything else."""
        history = cls()
        for task, rounds in json.loads(text).items():
            for number, sites in rounds.items():
                history.note(task, int(number), sites)
        return history
