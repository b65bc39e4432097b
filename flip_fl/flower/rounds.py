"""What happens at the hub and on disk while a strategy goes through its rounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord

from flip_fl.aggregate.best import BestModel
from flip_fl.app.arrays import Arrays
from flip_fl.flower.average import score_of
from flip_fl.flower.checkpoint import Checkpoint, StrategyState, read_checkpoint, write_checkpoint
from flip_fl.flower.grid import FlipGrid, Phase, RoundFailed
from flip_fl.reporting.lifecycle import Lifecycle
from flip_fl.results.model_folder import BEST_MODEL, GLOBAL_MODEL, ModelFolder
from flip_fl.values import Task

CHECKPOINT = "checkpoint.npz"

History = dict[str, dict[int, dict[str, dict[str, float]]]]


@dataclass
class Rounds:
    """The watcher of a run: tells lifecycle and grid where it is, keeps models, measurements and checkpoints.

    ``total`` rounds are planned, ``expected`` sites take part. ``done`` is the last round that was checkpointed.
    """

    grid: FlipGrid
    lifecycle: Lifecycle
    folder: Path
    total: int
    state: StrategyState
    best: BestModel | None = None
    expected: int = 0
    done: int = 0
    arrays: Arrays = field(default_factory=dict)
    history: History = field(default_factory=lambda: {Task.TRAIN.value: {}, Task.VALIDATE.value: {}})

    @property
    def models(self) -> ModelFolder:
        """Where this run's models lie."""
        return ModelFolder(self.folder / "models")

    def resume(self) -> bool:
        """Go back to the last checkpoint, if there is one. Raises ``FlipError`` E0521 when it cannot be read."""
        found = read_checkpoint(self.folder / CHECKPOINT)
        if found is None:
            return False
        self.done, self.arrays = found.round, found.arrays
        self.state.restore(found.state)
        for task, rounds in found.facts["history"].items():
            self.history[task] = {int(number): sites for number, sites in rounds.items()}
        if self.best is not None:
            self.best.round, self.best.value = found.facts["best"]
        return True

    # -- told by the strategy -------------------------------------------------------------------------------------

    def train_begins(self, number: int) -> None:
        self.lifecycle.round_started(number, self.total)
        self.grid.expect(Task.TRAIN, number)

    def aggregated(self, number: int, arrays: ArrayRecord | None) -> None:
        """Raises ``RoundFailed`` when sites were asked and the strategy made no model of what they returned."""
        phase = self._phase(Task.TRAIN)
        if phase.asked and arrays is None:
            raise RoundFailed(f"the strategy gave no model in round {number} ({len(phase.replies)} sites returned)")
        self._note(phase)
        if phase.asked:
            self.lifecycle.aggregated(number, len(phase.replies), self.expected)

    def validation_begins(self, number: int) -> None:
        self.grid.expect(Task.VALIDATE, number)

    def scored(self, number: int, arrays: ArrayRecord) -> None:
        phase = self._phase(Task.VALIDATE)
        self._note(phase)
        self.arrays = {name: array.numpy() for name, array in arrays.items()}
        if self.best is not None and self.best.offer(number, [score_of(reply) for reply in phase.replies.values()]):
            self.models.save(BEST_MODEL, self.arrays)
        self.done = number
        best = (self.best.round, self.best.value) if self.best is not None else (None, None)
        facts: dict[str, Any] = {"history": self.history, "best": best}
        state = Checkpoint(number, self.total, self.arrays, self.state.changed(), facts)
        write_checkpoint(self.folder / CHECKPOINT, state)

    # -- at the end -----------------------------------------------------------------------------------------------

    def keep(self) -> ModelFolder:
        """The run's models and measurements as they are delivered."""
        self.models.save(GLOBAL_MODEL, self.arrays)
        self.models.save_history(self.history)
        return self.models

    def _phase(self, task: Task) -> Phase:
        phase = self.grid.phase
        if phase is None or phase.task is not task:
            raise RoundFailed(f"the strategy aggregated {task.value} before it sent anything")
        return phase

    def _note(self, phase: Phase) -> None:
        if phase.asked:
            sites = {slot: dict(score_of(reply).metrics) for slot, reply in phase.replies.items()}
            self.history[phase.task.value][phase.round] = sites
