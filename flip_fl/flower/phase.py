"""One phase of a round (train, or validate): who was asked, what came of it, and whether the run goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flwr.app import Message

from flip_fl.flower.protocol import STAY_EVERY_S
from flip_fl.values import Task, task_words

STOPPED_AT_HUB = "stopped at the hub"


class RoundFailed(Exception):
    """The run cannot go on; the text is the reason that the hub shows."""


class RunStopped(Exception):
    """Somebody stopped the run; the text is the reason that the hub shows."""


@dataclass(frozen=True)
class Patience:
    """How long the server waits, in seconds: for the sites, for a phase's replies, between two looks, and before it
    tells sites that have nothing to do that the run goes on."""

    start_timeout_s: float = 600
    phase_timeout_s: float = 86_400
    poll_s: float = 0.5
    stay_every_s: float = STAY_EVERY_S


@dataclass(frozen=True)
class Quorum:
    """How many sites must give something usable in each phase (0: all), and whether a run survives a failed site."""

    min_clients: int = 0
    ignore_result_error: bool = False

    def needed(self, sites: int) -> int:
        """How many of ``sites`` must be there."""
        return self.min_clients or sites


@dataclass(frozen=True)
class Phase:
    """What became of one phase. Slots are in natural order; a slot that was asked is in one of the two mappings.

    ``replies`` are the usable ones as they came, with all their metrics; ``failures`` says why there is none, and
    ``codes`` in one word. ``stage`` is None in a job of one.
    """

    task: Task
    round: int
    asked: tuple[str, ...] = ()
    replies: Mapping[str, Message] = field(default_factory=dict)
    failures: Mapping[str, str] = field(default_factory=dict)
    stage: str | None = None
    codes: Mapping[str, str] = field(default_factory=dict)
    # In words, of what is no task.
    what: str = ""

    @property
    def place(self) -> str:
        """Task, round and stage in words."""
        if self.what:
            return f"{self.what}, round {self.round}"
        return task_words(self.task.value, self.round, self.stage)

    @property
    def words(self) -> str:
        """Every failure with its site, task and round; "" when there was none."""
        return "; ".join(
            f"{slot} in {self.place}: {self.failures[slot]}" for slot in self.asked if slot in self.failures
        )


def judge(phase: Phase, quorum: Quorum, sites: int, least: int = 0) -> str | None:
    """Whether the run of ``sites`` sites goes on after ``phase``: None, or without whom, in words.

    A site's failure ends the run unless ``ignore_result_error`` is set and the quorum holds. Too few usable replies
    end it in any case, also where the strategy asked too few. Nobody need be asked to validate, but to train: an
    untrained model is no result. A failed evaluation is one of the results. ``least`` sites are needed whatever the
    quorum says. Raises ``RoundFailed``.
    """
    if phase.task is Task.EVALUATE:
        return phase.words or None
    if not phase.asked:
        if phase.task is Task.TRAIN:
            raise RoundFailed(f"the strategy asked nobody in {phase.place}: check its fraction_train")
        return None
    usable, needed = len(phase.replies), max(quorum.needed(sites), least)
    if phase.failures and (not quorum.ignore_result_error or not usable):
        raise RoundFailed(phase.words)
    if usable < needed:
        returned = f"{usable} of the {needed} sites that the job needs returned"
        asked = f"the strategy asked {', '.join(phase.asked)} in {phase.place}"
        raise RoundFailed(f"{returned}; {phase.words or asked}")
    return phase.words or None
