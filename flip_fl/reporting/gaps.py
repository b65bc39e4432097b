"""Which of a site's reports have come: each once, in the order in which they were made, and how many never came."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flip_fl.wire import SiteBatch

# A batch that overtook the one before it waits this long for it.
HOLD_S = 2.0
MAX_HELD = 5_000
# After the end of a task, for live batches that its result overtook.
GRACE_S = 10.0
MAX_TASKS = 1_000


@dataclass(frozen=True)
class Missing:
    """Of the reports that a site made in a task, ``count`` never came. ``round`` 0: outside any round."""

    slot: str
    task: str
    round: int
    count: int
    stage: str | None = None

    @property
    def words(self) -> str:
        """``12 of Trust_1's reports of train, round 3 never came``."""
        stage = f", {self.stage}" if self.stage else ""
        place = f", round {self.round}" if self.round else ""
        return f"{self.count} of {self.slot}'s reports of {self.task}{stage}{place} never came"


@dataclass(frozen=True)
class Due:
    """What is due by now: items, by site and in its order, whose turn has come, and what never came."""

    items: list[tuple[str, list[Any]]] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)


class Gaps:
    """Follows the numbers that sites give their reports, task by task, on a channel that may lose, double and reorder.

    ``live`` takes a batch of that channel, ``result`` the acknowledged one that ends a task; both return the items that
    are to be stored now. ``due`` is to be asked now and then. A task is over with its result, or when the site reports
    of a newer one: a site works on one at a time. What a site had made but not yet sent when it died, nobody knows.

    Not safe for several threads. ``clock`` gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tasks: OrderedDict[tuple[str, str], _Task] = OrderedDict()
        self._forgotten: list[_Task] = []

    def live(self, slot: str, batch: SiteBatch) -> list[Any]:
        """The items of ``batch``, and of those that waited for it, which have not come before."""
        task = self._task(slot, batch)
        task.heard = max(task.heard, batch.first + len(batch.items))
        if batch.first > task.next and task.over_since is None:
            return task.hold(batch, self._clock())
        return [*task.take(batch.first, batch.items), *task.release(task.next)]

    def result(self, slot: str, batch: SiteBatch) -> list[Any]:
        """The items of a task's result that have not come before, and all that waited for others."""
        task = self._task(slot, batch)
        task.made, task.heard = batch.made, max(task.heard, batch.first + len(batch.items))
        if task.over_since is None:
            task.over_since = self._clock()
        before = task.release(batch.first)
        return [*before, *task.take(batch.first, batch.items), *task.release()]

    def gone(self, slot: str) -> None:
        """What the site was working on is over: it is lost, or works on something else."""
        for task in self._tasks.values():
            if task.slot == slot and task.over_since is None:
                task.over_since = self._clock()

    def due(self) -> Due:
        """Items that have waited long enough, and what is missing of tasks that have been over long enough."""
        now = self._clock()
        due = self._told(self._forgotten)
        self._forgotten = []
        for task in self._tasks.values():
            if task.held and now - task.held_since >= HOLD_S:
                due.items.append((task.slot, task.release()))
            if task.over_since is not None and now - task.over_since >= GRACE_S:
                due.missing.extend(task.missing())
        return due

    def end(self) -> Due:
        """The run is over: what waits, and what is missing."""
        due = self._told([*self._forgotten, *self._tasks.values()])
        self._forgotten = []
        self._tasks.clear()
        return due

    def _task(self, slot: str, batch: SiteBatch) -> _Task:
        key = (slot, str(batch.task_id))
        found = self._tasks.get(key)
        if found is None:
            self.gone(slot)
            found = self._tasks[key] = _Task(slot, batch.task, batch.round, batch.stage)
            if len(self._tasks) > MAX_TASKS:
                self._forgotten.append(self._tasks.popitem(last=False)[1])
        return found

    @staticmethod
    def _told(tasks: list[_Task]) -> Due:
        items = [(task.slot, task.release()) for task in tasks if task.held]
        return Due(items, [missing for task in tasks for missing in task.missing()])


@dataclass
class _Task:
    """One task of one site: the numbers that have come, as ranges, and the batches that wait for their turn."""

    slot: str
    task: str
    round: int
    stage: str | None
    next: int = 0
    heard: int = 0
    made: int | None = None
    over_since: float | None = None
    held: dict[int, list[Any]] = field(default_factory=dict)
    held_since: float = 0.0
    came: list[tuple[int, int]] = field(default_factory=list)
    told: bool = False

    def hold(self, batch: SiteBatch, now: float) -> list[Any]:
        """Let ``batch`` wait for what comes before it; if too much waits, nothing waits any longer."""
        if not self.held:
            self.held_since = now
        self.held.setdefault(batch.first, batch.items)
        return self.release() if sum(map(len, self.held.values())) > MAX_HELD else []

    def release(self, up_to: int | None = None) -> list[Any]:
        """The new ones of the items that wait, in order: of batches whose turn it is by ``up_to``, or of all."""
        freed: list[Any] = []
        for first in sorted(self.held):
            if up_to is not None and first > max(up_to, self.next):
                break
            freed += self.take(first, self.held.pop(first))
        return freed

    def take(self, first: int, items: list[Any]) -> list[Any]:
        """Those of ``items``, numbered from ``first``, that are new; they count as come."""
        end = first + len(items)
        self.next = max(self.next, end)
        if not items:
            return []
        fresh: list[Any] = []
        start = first
        for low, high in self._overlaps(first, end):
            fresh += items[max(0, start - first) : max(0, low - first)]
            start = max(start, high)
        fresh += items[start - first :]
        self._join(first, end)
        return fresh

    def missing(self) -> list[Missing]:
        """What has not come, told once."""
        if self.told:
            return []
        self.told = True
        expected = self.heard if self.made is None else self.made
        count = expected - sum(high - low for low, high in self.came)
        return [Missing(self.slot, self.task, self.round, count, self.stage)] if count > 0 else []

    def _overlaps(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        return ((low, high) for low, high in self.came if high > first and low < end)

    def _join(self, first: int, end: int) -> None:
        apart = [(low, high) for low, high in self.came if high < first or low > end]
        touching = [pair for pair in self.came if pair[1] >= first and pair[0] <= end]
        joined = (min([first, *(low for low, _ in touching)]), max([end, *(high for _, high in touching)]))
        self.came = sorted([*apart, joined])
