"""What the researcher's functions see of the site they run at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from flip_fl.app.batch import Batcher
from flip_fl.app.faults import AppError, TaskAborted
from flip_fl.data.images import Studies, TooManySkipped, fetch_studies
from flip_fl.privacy.egress import Egress, as_number
from flip_fl.values import DEFAULT_X_LABEL, ResourceType, Task
from flip_fl.wire import LogItem, MetricItem

if TYPE_CHECKING:
    import pandas as pd

    from flip_fl.data.sources import Source

T = TypeVar("T")


@dataclass(frozen=True)
class SiteSpec:
    """One task at one site, as plain data. Rounds count from 1; 0 means outside any round."""

    slot: str
    round: int
    total_rounds: int
    task: Task = Task.TRAIN
    stage: str | None = None
    seed: int = 0
    project_id: str = ""
    query: str = ""
    device: str | None = None

    def where(self) -> str:
        """The task in words: ``round 3 (train)``."""
        stage = f", {self.stage}" if self.stage else ""
        return f"round {self.round} ({self.task.value}{stage})"


class Ledger:
    """The items that one task reports: built here, behind the egress rules, and nowhere else."""

    def __init__(self, spec: SiteSpec, egress: Egress, batcher: Batcher) -> None:
        self._spec = spec
        self._egress = egress
        self._batcher = batcher
        self._seen: set[tuple[str, str, float]] = set()

    def metric(
        self, label: Any, value: Any, x_value: Any = None, x_label: Any = None, *, returned: bool = False
    ) -> bool:
        """Report one number; False when the egress rules refuse it.

        A ``returned`` one that the task has logged at the same coordinate is already there.
        """
        if not self._egress.number(label, value, x_value, x_label):
            return False
        x = as_number(x_value)
        coordinate = (label, x_label or DEFAULT_X_LABEL, float(self._spec.round) if x is None else x)
        if returned and coordinate in self._seen:
            return True
        self._seen.add(coordinate)
        self._batcher.add(
            MetricItem(
                at=datetime.now(UTC),
                client=self._spec.slot,
                global_round=self._spec.round,
                label=label,
                result=float(value),
                x_value=x,
                x_label=x_label,
                task=self._spec.task.value,
                stage=self._spec.stage,
            )
        )
        return True

    def note(self, text: str, *, success: bool = False) -> None:
        """Report one of the house's own sentences."""
        self._batcher.add(
            LogItem(
                at=datetime.now(UTC),
                client=self._spec.slot,
                log=text,
                success=success,
                global_round=self._spec.round,
            )
        )

    def close(self) -> None:
        """Report what was refused, then publish the rest."""
        for line in self._egress.refusals():
            self.note(line)
        self._batcher.close()


class Site:
    """A hospital, as ``train(model, site, config)`` sees it.

    ``name`` is the kit slot; ``round`` and ``total_rounds`` count from 1; ``seed`` is the job's (the same in every
    round); ``memory`` is a dict that lives as long as the site's process.
    """

    def __init__(
        self,
        spec: SiteSpec,
        *,
        source: Source,
        ledger: Ledger,
        aborted: Callable[[], bool],
        memory: dict[str, Any],
        max_skipped: float = 0.05,
    ) -> None:
        self.name = spec.slot
        self.round = spec.round
        self.total_rounds = spec.total_rounds
        self.task = spec.task.value
        self.stage = spec.stage
        self.seed = spec.seed
        self.memory = memory
        self._spec = spec
        self._source = source
        self._ledger = ledger
        self._aborted = aborted
        self._max_skipped = max_skipped

    @cached_property
    def device(self) -> str:
        """Where to compute: ``cuda`` where torch finds one, else ``cpu``."""
        if self._spec.device is not None:
            return self._spec.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def aborted(self) -> bool:
        """Whether the run was stopped; long loops ask it, or use ``progress``."""
        return self._aborted()

    def cohort(self) -> pd.DataFrame:
        """The cohort of the job's query: one row a study or a patient. Raises what the data-access service answers."""
        return self._source.dataframe(self._spec.project_id, self._spec.query)

    def images(
        self,
        cohort: pd.DataFrame,
        resource_type: ResourceType | str | Sequence[ResourceType | str] = ResourceType.NIFTI,
    ) -> Studies:
        """The studies of ``cohort``: accession id → {type: folder}.

        A few that cannot be fetched are skipped and counted at the hub; raises ``AppError`` when it is more than the
        share MAX_SKIPPED, ``ValueError`` without an ``accession_id`` column, ``TaskAborted`` when the run is stopped.
        """
        given = [resource_type] if isinstance(resource_type, str) else list(resource_type)
        types = tuple(dict.fromkeys(ResourceType(name) for name in given))
        try:
            studies = fetch_studies(
                self._source,
                self._spec.project_id,
                cohort,
                types,
                max_skipped=self._max_skipped,
                check=self._raise_if_aborted,
            )
        except TooManySkipped as error:
            raise AppError(str(error)) from None
        summary = studies.summary()
        if summary is not None:
            self._ledger.note(summary)
        return studies

    def log(self, label: str, value: float, x_value: float | None = None, x_label: str | None = None) -> None:
        """Send one number to the hub, stamped with this round; the plot's axis is (x_label, x_value).

        Never raises: a number that is not finite, or a name that may not leave, is reported in its place.
        """
        self._ledger.metric(label, value, x_value, x_label)

    def progress(self, iterable: Iterable[T]) -> Iterator[T]:
        """``iterable``, item by item; raises ``TaskAborted`` as soon as the run is stopped."""
        for item in iterable:
            self._raise_if_aborted()
            yield item

    def _raise_if_aborted(self) -> None:
        if self._aborted():
            raise TaskAborted
