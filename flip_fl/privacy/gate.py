"""The gate of a site: what its policy demands of a task before it starts, and of what the task would send.

It stands in the site's own process, outside of the researcher's code. Without a policy it is open, as sites were.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip_fl.errors import FlipError
from flip_fl.privacy.account import Account, Release, cohort_of
from flip_fl.privacy.egress import EgressPolicy, Rate
from flip_fl.privacy.pipeline import filtered
from flip_fl.privacy.policy import FilterSet, SitePolicy
from flip_fl.privacy.updates import NotFiltered
from flip_fl.values import MIN_COUNT

_STATE = "set FLIP_STATE_DIR in the site's settings to a folder that stays"


@dataclass(frozen=True)
class Asked:
    """One task, as far as a policy asks. ``where`` is it in words; ``staged``: its job has two stages."""

    where: str
    task: str
    round: int
    stage: str | None = None
    staged: bool = False
    project: str = ""
    query: str = ""


@dataclass(frozen=True)
class Released:
    """What may leave, and the ε that is spent with it (None: nothing is kept account of)."""

    arrays: dict[str, Any]
    epsilon: float | None = None


class Gate:
    """The gate of one job at one site; ``policy`` None: open. ``state_dir`` is where the account of privacy lies."""

    def __init__(self, policy: SitePolicy | None = None, state_dir: Path | None = None, job: str = "") -> None:
        self.policy = policy
        self._job = job
        self._account = Account(state_dir) if state_dir is not None else None
        per_minute = policy.egress.max_per_minute if policy is not None else None
        self._rate = Rate(per_minute) if per_minute is not None else None

    @property
    def holds_back(self) -> bool:
        """Whether what a task reports waits for its number of examples."""
        return self.policy is not None and self.policy.egress.min_cohort > 0

    @property
    def least_count(self) -> int:
        """Of how many examples a group must be whose number may leave."""
        return self.policy.egress.min_cohort if self.policy is not None else MIN_COUNT

    @property
    def bounds_names(self) -> bool:
        """Whether only declared names may leave."""
        return self.policy is not None and self.policy.egress.require_declared

    def egress(self, declared: Iterable[str] | None) -> EgressPolicy:
        """The rules of a task's metrics; ``declared`` is the job's METRICS."""
        names = frozenset(declared) if declared is not None else None
        if self.policy is None:
            return EgressPolicy(declared=names)
        own = self.policy.egress
        return EgressPolicy(
            max_metrics=own.max_metrics,
            max_names=own.max_names,
            declared=(names or frozenset()) if own.require_declared else names,
            digits=own.decimals,
            rate=self._rate,
        )

    def admit(self, asked: Asked, *, trains: bool) -> None:
        """Whether the task may start. Raises ``FlipError`` E0973, where it ``trains`` E0975, and E0977."""
        if self.policy is None:
            return
        allowed = self.policy.projects.allow
        if allowed is not None and asked.project not in allowed:
            problem = "its project is not among those that may run here"
            raise FlipError("E0973", subject=asked.where, problem=problem)
        filters = self._filters(asked)
        if trains and filters.gaussian is not None:
            needed = self._opened().epsilon(
                asked.project, cohort_of(asked.query), self.policy.delta, filters.gaussian.mechanism.multiplier
            )
            self._within(needed, asked)

    def filters(self, asked: Asked) -> bool:
        """Whether a model of this task would be filtered. Raises ``FlipError`` E0973."""
        return self.policy is not None and not self._filters(asked).empty

    def enough(self, asked: Asked, examples: int | None) -> None:
        """Whether the task worked on enough ``examples`` (None: it does not say). Raises ``FlipError`` E0976."""
        least = self.policy.egress.min_cohort if self.policy is not None else 0
        if least and (examples is None or examples < least):
            raise FlipError("E0976", place=asked.where, least=least)

    def release(
        self, asked: Asked, received: Mapping[str, Any], sent: Mapping[str, Any], *, difference: bool
    ) -> Released:
        """What of ``sent`` may leave, filtered in place where that can be, once what it costs is written down.

        ``sent`` came of ``received``: the whole model, or with ``difference`` what changed. Raises ``FlipError`` E0974,
        E0975, E0977.
        """
        if self.policy is None or not sent:
            return Released(dict(sent))
        filters = self._filters(asked)
        if filters.empty:
            return Released(dict(sent))
        try:
            arrays = filtered(filters, received, sent, difference=difference)
        except NotFiltered as problem:
            raise FlipError("E0974", place=asked.where, problem=problem) from None
        if filters.gaussian is None:
            return Released(arrays)
        release = Release(
            asked.project,
            cohort_of(asked.query),
            self._job,
            asked.task,
            asked.round,
            asked.stage,
            filters.gaussian.mechanism.multiplier,
        )
        most = self.policy.budget.epsilon if self.policy.budget is not None else None
        epsilon = self._opened().spend(release, self.policy.delta, most)
        self._within(epsilon, asked)
        return Released(arrays, epsilon)

    def _filters(self, asked: Asked) -> FilterSet:
        """The filters of the task's stage. Raises ``FlipError`` E0973 for a stage that is missing or unknown."""
        assert self.policy is not None
        filters = self.policy.filters
        if all(each.empty for each in filters.sets):
            return FilterSet()
        if asked.staged != (asked.stage is not None):
            problem = "its job has two stages and it names none" if asked.staged else "it names a stage and has none"
            raise FlipError("E0973", subject=asked.where, problem=problem)
        try:
            return filters.of_stage(asked.stage)
        except ValueError:
            problem = "it names a stage for which there are no filters"
            raise FlipError("E0973", subject=asked.where, problem=problem) from None

    def _opened(self) -> Account:
        if self._account is None:
            raise FlipError("E0977", problem="the site has no folder for it", suggestion=_STATE)
        return self._account

    def _within(self, epsilon: float, asked: Asked) -> None:
        budget = self.policy.budget if self.policy is not None else None
        if budget is not None and epsilon > budget.epsilon:
            raise FlipError(
                "E0975",
                place=asked.where,
                needed=f"{epsilon:.4g}",
                budget=f"{budget.epsilon:g}",
                delta=f"{budget.delta:g}",
            )
