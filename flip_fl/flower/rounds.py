"""What happens at the hub and on disk while a strategy goes through its rounds."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType

from flip_fl.aggregate.best import BestModel, Score
from flip_fl.app.arrays import Arrays, read_arrays, replace_arrays
from flip_fl.app.plan import Stage
from flip_fl.app.weights import Frame, StartingModel
from flip_fl.flower.average import score_of, to_all
from flip_fl.flower.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from flip_fl.flower.compare import Measure
from flip_fl.flower.grid import FlipGrid, Phase, RoundFailed
from flip_fl.flower.handling import KeptState
from flip_fl.flower.history import History, Sites
from flip_fl.flower.protocol import TaskNote
from flip_fl.reporting.lifecycle import Lifecycle
from flip_fl.results.delivery import tidy
from flip_fl.results.model_folder import BEST_MODEL, GLOBAL_MODEL, ModelFolder
from flip_fl.values import Task

logger = logging.getLogger("flip_fl.flower")

CHECKPOINT = "checkpoint.npz"
HISTORY = "history.jsonl"


@dataclass
class Rounds:
    """The watcher of a run: tells lifecycle and grid where it is, keeps models, measurements and checkpoints.

    ``total`` rounds are planned, ``expected`` sites take part. ``done`` is the last round that was checkpointed;
    ``identity`` tells this job from another one of the same model.
    """

    grid: FlipGrid
    lifecycle: Lifecycle
    folder: Path
    total: int
    state: KeptState
    identity: str = ""
    best: BestModel | None = None
    expected: int = 0
    done: int = 0
    stage: Stage | None = None
    frame: Frame | None = None
    # Each site's model of the last round, where they are to be scored at every site.
    keep_updates: bool = False
    updates: dict[str, ArrayRecord] = field(default_factory=dict)
    # How the sites' updates are compared; None where nobody may know.
    measure: Measure | None = None
    # As the strategy has it: shared with it, where numpy arrays would be a copy that lives from round to round.
    record: ArrayRecord = field(default_factory=ArrayRecord)
    history: History = field(default_factory=History)
    _aggregated: int = field(default=0, init=False)

    @property
    def models(self) -> ModelFolder:
        """Where this run's models lie."""
        return ModelFolder(self.folder / "models")

    def resume(self) -> bool:
        """Go back to the last checkpoint, if there is one of this very job.

        That of another one is removed: the model was queued anew with other code, sites or rounds. Raises ``FlipError``
        E0521 when it cannot be read.
        """
        found = read_checkpoint(self.folder / CHECKPOINT)
        if found is None:
            return False
        if found.facts["identity"] != self.identity:
            logger.warning("a checkpoint of another job of this model is removed")
            tidy([self.folder])
            return False
        self.done = found.round
        self.frame = Frame.around(found.arrays, found.facts["travelling"], found.facts["trainable"])
        self.record = record_of({name: found.arrays[name] for name in self.frame.travelling})
        self.state.restore(found.state)
        self.history = History.read(self.folder / HISTORY, found.history_bytes)
        if self.best is not None:
            self.best.round, self.best.value = found.facts["best"]
        return True

    def begin(self, stage: Stage, start: StartingModel) -> None:
        """The rounds of ``stage`` follow, from ``start``."""
        self.stage, self.frame, self.record = stage, start.frame, record_of(start.sent)

    @property
    def whole(self) -> Arrays:
        """The global model, with what of it does not travel."""
        arrays = _arrays(self.record)
        return arrays if self.frame is None else self.frame.whole(arrays)

    # -- told by the strategy -------------------------------------------------------------------------------------

    def train_begins(self, number: int) -> None:
        self._close()
        self.lifecycle.round_started(number, self.total, stage=self._stage_name)
        self.grid.expect(Task.TRAIN, number, self._task_note())

    def returned(self, number: int, sent: ArrayRecord) -> None:
        phase = self._phase(Task.TRAIN)
        if self.measure is not None and phase.replies:
            parts = self.measure.parts(sent, phase.replies, self.lifecycle.counts)
            self.lifecycle.compared(number, parts, stage=self._stage_name)

    def aggregated(self, number: int, arrays: ArrayRecord | None) -> None:
        """Raises ``RoundFailed`` when the strategy made no model of what the sites returned, or one that is none."""
        phase = self._phase(Task.TRAIN)
        if phase.asked and arrays is None:
            raise RoundFailed(f"the strategy gave no model in round {number} ({len(phase.replies)} sites returned)")
        self._note(phase)
        if arrays is not None:
            _check(arrays, number)
            self.record = arrays
        self._aggregated = number
        if phase.asked:
            self.lifecycle.aggregated(number, len(phase.replies), self.expected, stage=self._stage_name)
        if self.keep_updates and number == self.total:
            self.updates = {slot: _array_record(reply) for slot, reply in phase.replies.items()}

    def validation_begins(self, number: int) -> None:
        self.grid.expect(Task.VALIDATE, number, self._task_note())

    def scored(self, number: int, arrays: ArrayRecord) -> None:
        scores = self._note(self._phase(Task.VALIDATE))
        self.record = arrays
        final = self.stage is None or self.stage.last == self.total
        if final and self.best is not None and self.best.offer(number, scores):
            # Under the round's own name: a file of a round that is never checkpointed must not pass for the best.
            replace_arrays(self._best_file(number), self.whole)
        self._close()

    def cross_validate(self) -> None:
        """Score each site's last model at every site."""
        found: dict[str, Sites] = {}
        for slot, record in self.updates.items():
            self.grid.expect(Task.VALIDATE, self.total, TaskNote(stage=self._stage_name or "", model=slot, quiet=True))
            messages = to_all(self.total, record, ConfigRecord(), self.grid, MessageType.EVALUATE)
            self.grid.send_and_receive(messages)
            phase = self._phase(Task.VALIDATE)
            found[slot] = {site: dict(score_of(reply).metrics) for site, reply in phase.replies.items()}
        self.history.cross_site = found
        self.updates = {}

    # -- at the end -----------------------------------------------------------------------------------------------

    def keep(self) -> ModelFolder:
        """The run's models and measurements as they are delivered."""
        self._close()
        self.models.save(GLOBAL_MODEL, self.whole)
        self.models.save_history(self.history.whole())
        if self.best is not None and self.best.round is not None:
            self.models.save(BEST_MODEL, read_arrays(self._best_file(self.best.round)))
        return self.models

    def _close(self) -> None:
        """Write down the round that was aggregated last, once; a strategy may do without validation."""
        if self._aggregated <= self.done:
            return
        self.done = self._aggregated
        best = (self.best.round, self.best.value) if self.best is not None else (None, None)
        whole = self.whole
        facts: dict[str, Any] = {
            "best": best,
            "identity": self.identity,
            "travelling": list(self.record),
            "trainable": sorted(self.frame.trainable if self.frame is not None else whole),
        }
        measured = self.history.save(self.folder / HISTORY)
        state = Checkpoint(self.done, self.total, whole, self.state.changed(), facts, measured)
        write_checkpoint(self.folder / CHECKPOINT, state)
        for path in self.folder.glob("best-*.npz"):
            if self.best is None or self.best.round is None or path != self._best_file(self.best.round):
                path.unlink()

    @property
    def _stage_name(self) -> str | None:
        return self.stage.name if self.stage is not None else None

    def _task_note(self) -> TaskNote:
        return TaskNote(stage=self._stage_name or "")

    def _best_file(self, number: int) -> Path:
        return self.folder / f"best-{number}.npz"

    def _phase(self, task: Task) -> Phase:
        phase = self.grid.phase
        if phase is None or phase.task is not task:
            raise RoundFailed(f"the strategy aggregated {task.value} before it sent anything")
        return phase

    def _note(self, phase: Phase) -> list[Score]:
        """Keep what was measured in ``phase``, and return it."""
        scores = [score_of(reply) for reply in phase.replies.values()]
        if phase.asked:
            sites = {slot: score.metrics for slot, score in zip(phase.replies, scores, strict=True)}
            self.history.note(phase.task.value, phase.round, sites)
        return scores


def record_of(arrays: Arrays) -> ArrayRecord:
    """Numpy arrays as Flower sends them."""
    return ArrayRecord({name: Array(array) for name, array in arrays.items()})


def _arrays(record: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in record.items()}


def _array_record(reply: Message) -> ArrayRecord:
    (record,) = reply.content.array_records.values()
    return record


def _check(record: ArrayRecord, number: int) -> None:
    for name, stored in record.items():
        array = stored.numpy()
        if array.dtype.kind in "fc" and not np.isfinite(array).all():
            raise RoundFailed(f"the strategy's model of round {number} holds NaN or infinity in '{name}'")
