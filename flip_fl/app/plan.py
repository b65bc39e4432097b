"""The stages of a job: one for most job types, two for diffusion, one a model for an evaluation.

Rounds count through all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flip_fl.app.config import AppConfig
from flip_fl.values import JobType

AUTOENCODER = "ae"
DIFFUSION = "dm"


@dataclass(frozen=True)
class Stage:
    """Rounds ``first`` to ``last`` of a run, 1-based and inclusive. ``name`` is None where a job has but one stage."""

    name: str | None
    first: int
    last: int


def stages_of(config: AppConfig) -> tuple[Stage, ...]:
    """The stages of ``config``'s job, in order."""
    return stages_in(rounds_of(config))


def rounds_of(config: AppConfig) -> dict[str, int]:
    """How many rounds each stage has, by its name; the name is empty where there is but one."""
    if config.job_type is JobType.DIFFUSION:
        return {
            AUTOENCODER: config.global_rounds_ae or config.global_rounds,
            DIFFUSION: config.global_rounds_dm or config.global_rounds,
        }
    if config.job_type is JobType.EVALUATION:
        return dict.fromkeys(config.models, 1)
    return {"": config.global_rounds}


def stages_in(rounds: Mapping[str, int]) -> tuple[Stage, ...]:
    """The stages of ``rounds`` (name → number of rounds, in order)."""
    found, done = [], 0
    for name, number in rounds.items():
        found.append(Stage(name or None, done + 1, done + number))
        done += number
    return tuple(found)


def stage_at(stages: Sequence[Stage], number: int) -> Stage:
    """The stage that round ``number`` is in; the last one for any later round."""
    return next((stage for stage in stages if number <= stage.last), stages[-1])


def total_rounds(config: AppConfig) -> int:
    """The rounds of all stages."""
    return sum(rounds_of(config).values())


def final_stage(config: AppConfig) -> str | None:
    """The stage whose model is the job's result; None where a job has but one, or no model."""
    stages = stages_of(config)
    return stages[-1].name if stages else None
