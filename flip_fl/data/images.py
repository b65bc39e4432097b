"""Fetching a cohort's studies: many at a time, each with its outcome."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.data.fetch import SideBySide
from flip_fl.data.listing import OutsideError, StudyFile, list_files, merged
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.data.volumes import import_readers
from flip_fl.errors import FlipError
from flip_fl.http import HttpConnectionError, HttpStatusError
from flip_fl.reporting.backoff import Backoff
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    import pandas as pd

    from flip_fl.data.dataset import StudyDataset
    from flip_fl.data.sources import Source

ATTEMPTS = 3
# Waiting that long once is enough: a pull that did not end within it will not end within the next one either.
PATIENCE_S = 60.0
_UNAUTHORISED = 401
_NOT_FOUND = 404

Stopped = Callable[[float], bool]  # waits so many seconds; True as soon as nothing is wanted any more


@dataclass(frozen=True, slots=True)
class Study:
    """One study that came: the folder of each type (often one for all of them), and all files in them by path."""

    accession_id: str = field(repr=False)
    folders: Mapping[ResourceType, Path] = field(repr=False)
    files: tuple[StudyFile, ...] = field(repr=False)


class Known(Protocol):
    """What remembers studies between rounds and jobs: see ``data.index``. All but ``claim`` for several threads."""

    def claim(self, names: Sequence[str]) -> None:
        """The job uses these studies until it ends. Called before the first is asked for."""

    def get(self, accession_id: str) -> Study | None:
        """The study, if it was there and lies there unchanged."""

    def asking(self, accession_id: str) -> None:
        """The study is asked for now."""

    def found(self, accession_id: str, folders: Mapping[ResourceType, Path], study: Study | None = None) -> None:
        """It lies there (empty: nothing was given), whatever is wrong with it; ``study``: it is whole, remember it."""


class Fetching(Protocol):
    """Studies on their way: see ``SideBySide``."""

    def answer(self, check: Callable[[], None]) -> tuple[str, Study | SkipReason] | None: ...

    def stop(self) -> None: ...


class Studies(Mapping[str, Mapping[ResourceType, Path]]):
    """The studies of a cohort: accession id → {type: folder}, in the cohort's order.

    While some are still on their way, whatever needs all of them waits (and raises as ``fetch_studies`` says);
    ``arriving`` does not. Its text, like the manifest's, holds no accession number.
    """

    def __init__(
        self,
        cohort: pd.DataFrame,
        names: Sequence[str],
        unnamed: int,
        fetching: Fetching,
        *,
        max_skipped: float,
        check: Callable[[], None],
        derived_dir: Path | None = None,
        settled: Callable[[Manifest], None] = lambda manifest: None,
    ) -> None:
        self.cohort = cohort
        self.derived_dir = derived_dir
        self._names = names
        self._unnamed = unnamed
        self._fetching = fetching
        self._check = check
        self._max_skipped = max_skipped
        self._outcomes: dict[str, Study | SkipReason] = {}
        self._skipped = unnamed
        self._ended: BaseException | None = None
        self._tell_settled = settled
        self._told = False
        self._refuse_too_many()

    def __getitem__(self, accession_id: str) -> Mapping[ResourceType, Path]:
        self.wait()
        outcome = self._outcomes[accession_id]
        if isinstance(outcome, SkipReason):
            raise KeyError("the study was skipped: the manifest says why")
        return outcome.folders

    def __iter__(self) -> Iterator[str]:
        return (study.accession_id for study in self.studies())

    def __len__(self) -> int:
        return len(self.studies())

    def __repr__(self) -> str:
        # The default one would print accession numbers into whatever log shows it.
        return f"Studies({self.manifest})"

    @property
    def asked(self) -> int:
        """How many studies the cohort has."""
        return len(self._names) + self._unnamed

    @property
    def settled(self) -> int:
        """How many of them have come, or are known not to come."""
        return len(self._outcomes) + self._unnamed

    @property
    def manifest(self) -> Manifest:
        """What came and what was skipped, and why."""
        self.wait()
        return self._manifest()

    def studies(self) -> list[Study]:
        """All that came, in the cohort's order."""
        self.wait()
        found = (self._outcomes[name] for name in self._names)
        return [study for study in found if isinstance(study, Study)]

    def arriving(self) -> Iterator[Study]:
        """Each study as soon as it is there: first those that are, then the others in the order in which they come."""
        yield from [study for study in self._outcomes.values() if isinstance(study, Study)]
        for study in self._arrivals():
            if study is not None:
                yield study

    def wait(self, told: Callable[[Studies], None] = lambda studies: None) -> Studies:
        """Until every study is there or known not to come; ``told`` is called after each."""
        for _ in self._arrivals():
            told(self)
        return self

    def dataset(self, image: str, **options: Any) -> StudyDataset:
        """A torch data set over these studies: see ``data.dataset.StudyDataset``."""
        from flip_fl.data.dataset import StudyDataset

        return StudyDataset.of(self, image, **options)

    def _arrivals(self) -> Iterator[Study | None]:
        while (answer := self._next()) is not None:
            name, outcome = answer
            self._outcomes[name] = outcome
            if isinstance(outcome, SkipReason):
                self._skipped += 1
                self._refuse_too_many()
            yield outcome if isinstance(outcome, Study) else None

    def _next(self) -> tuple[str, Study | SkipReason] | None:
        if self._ended is not None:
            raise self._ended
        try:
            answer = self._fetching.answer(self._check)
        except BaseException as error:
            self._ended = error
            raise
        if answer is None and not self._told:
            self._told = True
            self._tell_settled(self._manifest())
        return answer

    def _refuse_too_many(self) -> None:
        if self.asked and self._skipped > self._max_skipped * self.asked:
            # Nothing that still comes can mend it.
            self._fetching.stop()
            self._ended = FlipError(
                "E0904",
                skipped=f"{self._skipped:,}",
                asked=f"{self.asked:,}",
                so_far="" if self.settled == self.asked else " so far",
                reasons=", ".join(f"{count:,} {reason.words}" for reason, count in self._manifest().skipped.items()),
                share=f"{self._max_skipped:.4g}",
            )
            raise self._ended

    def _manifest(self) -> Manifest:
        settled = ((name, self._outcomes[name]) for name in self._names if name in self._outcomes)
        outcomes = {name: outcome if isinstance(outcome, SkipReason) else None for name, outcome in settled}
        return Manifest(MappingProxyType(outcomes), self._unnamed)


def fetch_studies(
    source: Source,
    project_id: str,
    cohort: pd.DataFrame,
    types: tuple[ResourceType, ...],
    *,
    max_skipped: float,
    check: Callable[[], None] = lambda: None,
    known: Known | None = None,
    derived_dir: Path | None = None,
    settled: Callable[[Manifest], None] = lambda manifest: None,
) -> Studies:
    """Ask for every study of ``cohort`` (each accession id once) in all ``types``; returns while they are fetched.

    ``source.in_flight`` requests are under way at once. ``check`` is called while the caller waits and may raise to
    stop everything; ``settled`` gets the manifest once, when the last study has come. A study that the service or the
    disk does not give, or in which a file is empty, is skipped; only server errors and transport faults are tried
    again.

    Raises ``ValueError`` without an ``accession_id`` column or for no types. Waiting raises ``FlipError`` E0904 as soon
    as more than the share ``max_skipped`` is missing, and ``HttpStatusError`` for a refused key (401).
    """
    names, unnamed = accession_numbers(cohort)
    if not types:
        raise ValueError("images() needs at least one resource type")
    fetching = fetching_of(source, project_id, names, types, known)
    studies = Studies(
        cohort,
        names,
        unnamed,
        fetching,
        max_skipped=max_skipped,
        check=check,
        derived_dir=derived_dir,
        settled=settled,
    )
    if known is not None:
        known.claim(names)
    import_readers(types)
    fetching.start()
    return studies


def accession_numbers(cohort: pd.DataFrame) -> tuple[list[str], int]:
    """Those of ``cohort``, each once, in its order, and how many rows have none.

    Raises ``ValueError`` without an ``accession_id`` column.
    """
    if ACCESSION_ID not in cohort.columns:
        raise ValueError("The provided dataframe does not contain an 'accession_id' column.")
    column = cohort[ACCESSION_ID]
    missing = column.isna() | (column.astype(str).str.strip() == "")
    return list(dict.fromkeys(column[~missing].astype(str))), int(missing.sum())


def fetching_of(
    source: Source, project_id: str, names: Sequence[str], types: tuple[ResourceType, ...], known: Known | None
) -> SideBySide[str, Study | SkipReason]:
    """What asks for ``names`` as soon as it is started: see ``fetch_studies``."""

    def ask(name: str) -> Study | SkipReason:
        return _ask(source, project_id, name, types, known, fetching.stopped.wait)

    def look(name: str) -> Study | SkipReason | None:
        return None if known is None else known.get(name)

    fetching: SideBySide[str, Study | SkipReason] = SideBySide(names, ask, source.in_flight, look=look)
    return fetching


def _ask(
    source: Source,
    project_id: str,
    name: str,
    types: tuple[ResourceType, ...],
    known: Known | None,
    stopped: Stopped,
) -> Study | SkipReason:
    """The study from the source, or why there is none."""
    if known is not None:
        known.asking(name)
    try:
        folders = _patiently(lambda: source.resources(project_id, name, types), stopped)
    except HttpConnectionError as error:
        # It may come yet: what is known stays that it was asked for.
        return SkipReason.BAD_ANSWER if error.answered else SkipReason.UNREACHABLE
    except (HttpStatusError, FlipError) as error:
        if known is not None:
            known.found(name, {})
        return _refusal(error)
    except OSError:
        return SkipReason.STORAGE_FAULT
    outcome = _lying(name, folders, source.images_root)
    if known is not None:
        # In one go with what lies there: until then it counts as asked for.
        known.found(name, folders, outcome if isinstance(outcome, Study) else None)
    return outcome


def _lying(name: str, folders: Mapping[ResourceType, Path], root: Path | None) -> Study | SkipReason:
    """The study as it lies in its folders, or what is wrong with it."""
    try:
        files = merged([list_files(folder, root) for folder in dict.fromkeys(folders.values())])
    except OutsideError:
        return SkipReason.OUTSIDE
    except FileNotFoundError:
        return SkipReason.EMPTY
    except OSError:
        return SkipReason.STORAGE_FAULT
    if not files or not all(file.size for file in files):
        return SkipReason.EMPTY
    return Study(name, MappingProxyType(dict(folders)), files)


def _refusal(error: HttpStatusError | FlipError) -> SkipReason:
    """Why a single study is not given. Raises what concerns all of them."""
    if isinstance(error, FlipError):
        if error.code not in _FLIP_REASONS:
            raise error
        return _FLIP_REASONS[error.code]
    if error.status_code == _UNAUTHORISED:
        raise error
    if error.status_code == _NOT_FOUND:
        return SkipReason.NOT_FOUND
    return SkipReason.STORAGE_FAULT if error.status_code >= 500 else SkipReason.REFUSED


_FLIP_REASONS: Mapping[str, SkipReason] = {"E0903": SkipReason.BAD_ACCESSION, "E0704": SkipReason.OUTSIDE}


def _patiently(call: Callable[[], Mapping[ResourceType, Path]], stopped: Stopped) -> Mapping[ResourceType, Path]:
    """``call``, again after a server error or a transport fault, with growing pauses that ``stopped`` cuts short."""
    backoff = Backoff()
    begun = time.monotonic()
    while True:
        try:
            return call()
        except (HttpStatusError, HttpConnectionError) as error:
            passing = error.status_code >= 500 if isinstance(error, HttpStatusError) else not error.answered
            late = time.monotonic() - begun > PATIENCE_S
            if not passing or late or backoff.failures >= ATTEMPTS - 1 or stopped(backoff.failed()):
                raise
