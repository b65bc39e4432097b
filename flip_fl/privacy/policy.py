"""A site's policy: what its trust demands of every job, whatever the job says. Plain facts, read by ``policy_file``.

Each section is frozen, takes no other keys, and no text where a number is meant. What is left out is not demanded,
but for ``[egress]``, whose defaults deny, and ``[isolation]``, whose default is the whole of it.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from flip_fl.privacy.gaussian import Mechanism
from flip_fl.values import MIN_COUNT

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Delta = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10_000_000)]
STAGES = ("ae", "dm")


def _absolute(path: str) -> str:
    if not PurePosixPath(path).is_absolute():
        raise ValueError("a folder must be an absolute path")
    return path


Folders = Annotated[tuple[Annotated[str, AfterValidator(_absolute)], ...], Field(strict=False)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Isolation(_Section):
    """How far the researcher's code is kept apart; where the system has not that ``level``, no app is run.

    ``memory_mb`` and ``file_mb`` are MiB for its processes together and for one file, ``processes`` their number,
    ``task_minutes`` how long one task may take. ``read`` and ``write`` are folders that an app may use beside its own
    (pretrained weights, say): absolute paths.
    """

    level: Literal["full", "process", "none"] = "full"
    memory_mb: Count | None = None
    processes: Count | None = None
    task_minutes: Count | None = None
    file_mb: Count | None = None
    read: Folders = ()
    write: Folders = ()


class Clipping(_Section):
    """The L2 norm of the whole update at most, in units of the weights."""

    norm: Positive


class Percentile(_Section):
    """Sparsification: of an update's magnitudes those below the ``percentile`` become 0, no one is above ``gamma``."""

    percentile: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] = 10.0
    gamma: Positive = 0.01


class Gaussian(_Section):
    """The Gaussian mechanism on an update clipped to ``clipping_norm``: (``epsilon``, ``delta``) each round."""

    epsilon: Positive
    delta: Delta
    clipping_norm: Positive

    @property
    def mechanism(self) -> Mechanism:
        """The calibrated mechanism."""
        return Mechanism(self.clipping_norm, self.epsilon, self.delta)


class FilterSet(_Section):
    """What an update passes through, in this order: clipping, percentile, gaussian."""

    clipping: Clipping | None = None
    percentile: Percentile | None = None
    gaussian: Gaussian | None = None

    @property
    def empty(self) -> bool:
        return self.clipping is None and self.percentile is None and self.gaussian is None


class Stages(_Section):
    """What is different in a stage of a two-stage job; a filter that is not named there is as everywhere."""

    ae: FilterSet = FilterSet()
    dm: FilterSet = FilterSet()


class Filters(FilterSet):
    """The filters of every job, and what is different in a stage."""

    stage: Stages = Stages()

    def of_stage(self, stage: str | None) -> FilterSet:
        """The filters of ``stage`` (None: of a job without stages). Raises ``ValueError`` for an unknown one."""
        if stage is None:
            return FilterSet(clipping=self.clipping, percentile=self.percentile, gaussian=self.gaussian)
        if stage not in STAGES:
            raise ValueError("no such stage")
        own: FilterSet = getattr(self.stage, stage)
        return FilterSet(
            clipping=own.clipping or self.clipping,
            percentile=own.percentile or self.percentile,
            gaussian=own.gaussian or self.gaussian,
        )

    @property
    def sets(self) -> tuple[FilterSet, ...]:
        """The filters as they can be met: without a stage, and in each."""
        return tuple(self.of_stage(stage) for stage in (None, *STAGES))


class Budget(_Section):
    """How much a project may spend in all: (``epsilon``, ``delta``) over its rounds and jobs."""

    epsilon: Positive
    delta: Delta


class Egress(_Section):
    """What may leave as a metric. ``require_declared``: only names of the job's METRICS.

    ``max_metrics`` and ``max_names`` are a task's, ``max_per_minute`` the site's in a job. ``decimals``: significant
    digits that are kept (None: all). Nothing leaves of a task on fewer than ``min_cohort`` examples.
    """

    require_declared: bool = True
    max_metrics: Annotated[int, Field(ge=0, le=10_000)] = 10_000
    max_names: Annotated[int, Field(ge=0, le=256)] = 256
    max_per_minute: Count | None = None
    decimals: Annotated[int, Field(ge=1, le=17)] | None = None
    min_cohort: Annotated[int, Field(ge=0)] = MIN_COUNT


class Projects(_Section):
    """Whose jobs may run: the ids in ``allow``; None: every project's."""

    allow: Annotated[tuple[str, ...] | None, Field(strict=False)] = None


class SitePolicy(_Section):
    """The whole policy of one site."""

    isolation: Isolation = Isolation()
    filters: Filters = Filters()
    budget: Budget | None = None
    egress: Egress = Egress()
    projects: Projects = Projects()

    @model_validator(mode="after")
    def _accountable(self) -> Self:
        if self.budget is not None and any(each.gaussian is None for each in self.filters.sets):
            raise ValueError("[budget] needs [filters.gaussian]: without noise no round has a bounded epsilon")
        return self

    @property
    def accounts(self) -> bool:
        """Whether any filter spends privacy that must be kept account of."""
        return any(each.gaussian is not None for each in self.filters.sets)

    @property
    def delta(self) -> float:
        """The δ at which spent privacy is told: the budget's, else the largest that a filter has."""
        if self.budget is not None:
            return self.budget.delta
        return max((each.gaussian.delta for each in self.filters.sets if each.gaussian), default=1e-5)
