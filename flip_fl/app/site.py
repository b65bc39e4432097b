"""What the researcher's functions see of the site they run at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from flip_fl.app.batch import Batcher
from flip_fl.app.faults import TaskAborted
from flip_fl.app.waiting import shown_progress
from flip_fl.data.images import Studies, fetch_studies
from flip_fl.data.index import derived_dir
from flip_fl.data.uploads import UploadOutcome, make_upload_dir, named_from, upload, upload_dir
from flip_fl.privacy.egress import Egress, as_number
from flip_fl.privacy.labels import labels_to_leave
from flip_fl.privacy.supplementary import Plain, Supplements
from flip_fl.values import DEFAULT_X_LABEL, ResourceType, Task
from flip_fl.wire import LogItem, MetricItem

if TYPE_CHECKING:
    import pandas as pd

    from flip_fl.data.index import ImageIndex
    from flip_fl.data.manifest import Manifest
    from flip_fl.data.sources import Source

MANIFEST = "manifest"
T = TypeVar("T")


@dataclass(frozen=True)
class SiteSpec:
    """One task at one site, as plain data. Rounds count from 1; 0 means outside any round.

    ``model`` names what is evaluated where a job has several. What a ``quiet`` task measures is returned, and not
    reported: it is about a model that no round has made.
    """

    slot: str
    round: int
    total_rounds: int
    task: Task = Task.TRAIN
    stage: str | None = None
    seed: int = 0
    project_id: str = ""
    query: str = ""
    device: str | None = None
    model: str | None = None
    quiet: bool = False

    @property
    def part(self) -> str | None:
        """The stage, or the model that is evaluated: what tells apart the metrics of one name in one job."""
        return self.stage or self.model

    def where(self) -> str:
        """The task in words: ``round 3 (train)``."""
        part = f", {self.part}" if self.part else ""
        return f"round {self.round} ({self.task.value}{part})"


class Ledger:
    """The items that one task reports: built here, behind the egress rules, and nowhere else."""

    def __init__(self, spec: SiteSpec, egress: Egress, batcher: Batcher) -> None:
        self._spec = spec
        self._egress = egress
        self._batcher = batcher
        self._supplements = Supplements(egress)
        self._seen: set[tuple[str, str, float]] = set()

    def metric(
        self,
        label: Any,
        value: Any,
        x_value: Any = None,
        x_label: Any = None,
        *,
        returned: bool = False,
        house: bool = False,
    ) -> bool:
        """Report one number; False when the egress rules refuse it. ``house``: it is ours, and no job declares it.

        A ``returned`` one that the task has logged at the same coordinate is already there. In a job of several stages
        or models the label begins with the name of this one (``dm/loss``).
        """
        if not self._egress.number(label, value, x_value, x_label, house=house):
            return False
        if self._spec.quiet:
            return True
        x = as_number(x_value)
        x = None if x is None else self.rounded(x)
        coordinate = (label, x_label or DEFAULT_X_LABEL, float(self._spec.round) if x is None else x)
        if returned and coordinate in self._seen:
            return True
        self._seen.add(coordinate)
        self._batcher.add(
            MetricItem(
                at=datetime.now(UTC),
                client=self._spec.slot,
                global_round=self._spec.round,
                label=f"{self._spec.part}/{label}" if self._spec.part else label,
                result=self.rounded(float(value)),
                x_value=x,
                x_label=x_label,
                task=self._spec.task.value,
                stage=self._spec.part,
            )
        )
        return True

    def of(self, spec: SiteSpec) -> Ledger:
        """A ledger for an earlier task, in the same batch and under the same rules: a script may speak of it later."""
        other = Ledger(spec, self._egress, self._batcher)
        other._supplements = self._supplements
        return other

    def supplementary(self, label: Any, value: Any) -> Plain | None:
        """What of a list or a dictionary may leave with the result; None when the egress rules refuse it."""
        return self._supplements.take(label, value)

    def labels(self, counts: Mapping[Any, Any], least: int, examples: int) -> dict[str, int | str]:
        """What may leave of how often each label is among the examples; numbers below ``least`` are withheld."""
        return labels_to_leave(counts, least, self._egress, examples)

    def declared(self, label: Any) -> bool:
        """Whether anything may leave under this name."""
        return self._egress.name_problem(label) is None

    def rounded(self, number: float) -> float:
        """``number`` with as many digits as may leave."""
        return self._egress.rounded(number)

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

    def refuse(self, reason: str) -> None:
        """Count something that may not leave; ``reason`` is told with how often."""
        self._egress.refuse(reason)

    def close(self) -> None:
        """Report what was refused, then publish the rest."""
        for line in self._egress.refusals():
            self.note(line)
        self._batcher.close()


class Site:
    """A hospital, as ``train(model, site, config)`` sees it.

    ``name`` is the kit slot; ``round`` and ``total_rounds`` count from 1; ``seed`` is the job's (the same in every
    round); ``stage`` is ``"ae"`` or ``"dm"`` in a diffusion job, ``model`` the name of the model that is evaluated
    where a job has several; ``memory`` is a dict that lives as long as the site's process.
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
        index: ImageIndex | None = None,
        told: dict[str, str] | None = None,
        fetch: Callable[..., Studies] = fetch_studies,
        uploads: Path | None = None,
    ) -> None:
        self.name = spec.slot
        self.round = spec.round
        self.total_rounds = spec.total_rounds
        self.task = spec.task.value
        self.stage = spec.stage
        self.model = spec.model
        self.seed = spec.seed
        self.memory = memory
        self._spec = spec
        self._source = source
        self._ledger = ledger
        self._aborted = aborted
        self._max_skipped = max_skipped
        self._index = index
        self._told = {} if told is None else told
        self._fetch = fetch
        self._uploads = uploads or upload_dir(source)

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
        *,
        wait: bool = True,
    ) -> Studies:
        """The studies of ``cohort``: accession id → {type: folder}; ``.dataset(…)`` reads, ``.manifest`` counts them.

        Many are asked for at once; what lies there from an earlier round is not asked for again. A few that cannot be
        fetched are skipped and counted at the hub; raises ``FlipError`` E0904 when it is more than the share
        MAX_SKIPPED, ``ValueError`` without an ``accession_id`` column, ``TaskAborted`` when the run is stopped. With
        ``wait=False`` it returns at once, and ``.arriving()`` gives each study as it comes.
        """
        given = [resource_type] if isinstance(resource_type, str) else list(resource_type)
        types = tuple(dict.fromkeys(ResourceType(name) for name in given))
        project, state = self._spec.project_id, self._source.state_dir
        studies = self._fetch(
            self._source,
            project,
            cohort,
            types,
            max_skipped=self._max_skipped,
            check=self._raise_if_aborted,
            known=self._index.of(project, types) if self._index is not None else None,
            derived_dir=derived_dir(state, project) if state is not None else None,
            settled=self._tell_skipped,
        )
        if wait:
            with shown_progress("fetching studies", studies.asked) as progress:
                studies.wait(lambda so_far: progress(so_far.settled))
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

    @property
    def upload_dir(self) -> Path:
        """Where an app puts what ``add_resource`` is to store, under names of its own.

        In a trust all jobs of the net share it, and none can list it. What was stored is copied: an app removes its
        file when it is done.
        """
        make_upload_dir(self._uploads)
        return self._uploads

    def add_resource(
        self, accession_id: str, scan_id: str, resource_id: str, files: Sequence[str | Path]
    ) -> list[UploadOutcome]:
        """Store files that a model made (segmentations, say) as a resource of a study's scan, one by one.

        ``files`` lie in ``upload_dir``: as paths, or named from there. One file that is refused says so in its outcome
        and keeps no other from being stored. Raises ``FlipError`` E0903, E0704 before any is sent, and ``TaskAborted``.
        """
        return upload(
            self._source,
            self._spec.project_id,
            accession_id,
            scan_id,
            resource_id,
            named_from(self._uploads, files),
            check=self._raise_if_aborted,
        )

    def _tell_skipped(self, manifest: Manifest) -> None:
        text = str(manifest)
        # Every round finds the same: it is said when it is new.
        if manifest.skipped and self._told.get(MANIFEST) != text:
            self._told[MANIFEST] = text
            self._ledger.note(text)

    def _raise_if_aborted(self) -> None:
        if self._aborted():
            raise TaskAborted
