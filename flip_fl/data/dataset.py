"""Studies as a torch data set: lazy, safe in worker processes, split by patient."""

from __future__ import annotations

import logging
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, SupportsIndex

from flip_fl.data.derived import DerivedCache
from flip_fl.data.facts import facts
from flip_fl.data.identity import identity
from flip_fl.data.loading import IMAGE, LABEL, TARGET, Glob, ManyStudies, Prepare, Recipe, Record
from flip_fl.data.manifest import Manifest
from flip_fl.data.selection import Check, Selection
from flip_fl.data.volumes import Problem, Volume, VolumeError, compression
from flip_fl.errors import FlipError

try:
    import torch
    from torch.utils.data import Dataset, IterableDataset, get_worker_info
except ModuleNotFoundError:
    raise FlipError(
        "E0509", part="torch", needed_for="studies.dataset() gives torch data sets", requirement="flip_fl[torch]"
    ) from None

logger = logging.getLogger(__name__)

Item = dict[str, Any]
Transform = Callable[[Item], Any]


class StudyDataset(Dataset[Any]):
    """The studies that came as items, in the cohort's order. Made by ``studies.dataset(...)``, see ``of``.

    An item is a dict: ``image``, a float32 tensor (1, *shape) with the axes of ``data.volumes`` (a DICOM series
    (1, slice, row, column), a single slice (1, row, column), NIfTI (1, i, j, k) as stored); ``label``, likewise;
    ``target``, a scalar tensor (int64 for a column of integers or booleans, else float32); and each of the columns.

    Nothing is read before an item is asked for. Whatever needs all studies (``len``, an item, ``manifest``, handing the
    data set to worker processes) waits for them; ``split``, ``readable`` and ``arriving`` do not.

    A study that cannot be read is an error of its item (E0920), which names it by its place: it is not left out in
    silence, nor replaced by another. So that one of them does not end a training, ``readable`` gives the data set
    without them, and counts them. It opens every file, so it is not done unasked: the first batch would wait for it.
    """

    def __init__(self, selection: Selection, columns: Sequence[str] = (), transform: Transform | None = None) -> None:
        self._selection = selection
        self._columns = tuple(columns)
        self._transform = transform

    @classmethod
    def of(
        cls,
        studies: ManyStudies,
        image: str,
        *,
        label: str | None = None,
        target: str | None = None,
        columns: Sequence[str] = (),
        prepare: Prepare | None = None,
        transform: Transform | None = None,
        cache_bytes: int = 0,
    ) -> StudyDataset:
        """A data set over ``studies``.

        ``image`` and ``label`` are patterns for a study's files, matched from the right at any depth as by
        ``Path.rglob``: one NIfTI file, or for images the files of one DICOM series. A study in which one of them
        matches nothing is left out and counted (``no_file`` in ``manifest``). ``target`` and ``columns`` name columns
        of the cohort; a study with several rows needs the same values in all of them.

        ``prepare`` gets the volumes by name (with affine and spacing) and returns the arrays of the item, channel
        first, or volumes; its result must depend on nothing else. With ``cache_bytes`` it is kept on the trust's disk
        between epochs, rounds and jobs of the project, in so many bytes. ``transform`` gets the item each time.

        Raises ``FlipError`` E0923 for columns and E0924 for patterns that cannot be used.
        """
        columns = (columns,) if isinstance(columns, str) else tuple(columns)
        _check_names(
            [IMAGE, *([LABEL] if label is not None else []), *([TARGET] if target is not None else []), *columns]
        )
        recipe = Recipe(Glob(image), None if label is None else Glob(label), prepare)
        if cache_bytes > 0:
            recipe = _cached(recipe, studies, cache_bytes)
        return cls(Selection(studies, recipe, facts(studies.cohort, target, columns)), columns, transform)

    def __len__(self) -> int:
        return len(self._records())

    def __getitem__(self, index: SupportsIndex) -> Any:
        return self._item(*self._at(index))

    def __repr__(self) -> str:
        return f"StudyDataset({f'{len(self):,} items' if self._selection.settled else 'studies still on their way'})"

    def volumes(self, index: SupportsIndex) -> dict[str, Volume]:
        """The item's images as they are stored, with affine and spacing: what ``prepare`` gets."""
        record, place, total = self._at(index)
        with _named(place, total):
            return self._selection.recipe.volumes(record)

    def datalist(self) -> list[Item]:
        """The items for MONAI's own readers: plain paths, and ``target`` and ``columns`` as plain values.

        ``image`` is a file's path; of a DICOM series of several files their folder's, which MONAI reads as one volume
        (its axes are column, row, slice), or the list of their paths where that folder holds other files too.
        """
        return [_plain_paths(record) | self._values(record) for record in self._records()]

    def balance(self) -> dict[float | int, int]:
        """How many items have which target, by target. Raises ``FlipError`` E0923 without ``target``."""
        targets = [record.target for record in self._records() if record.target is not None]
        if not targets:
            raise FlipError(
                "E0923",
                column=TARGET,
                problem="balance() counts targets, and the data set has none",
                suggestion="name the target's column: studies.dataset(…, target='…')",
            )
        return dict(sorted(Counter(targets).items()))

    @property
    def manifest(self) -> Manifest:
        """What became of each study: which came, and which were left out, here or before, and why."""
        return self._selection.manifest()

    def split(
        self, by: str = "person_id", fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
    ) -> tuple[StudyDataset, ...]:
        """Parts of which no two have a patient (a value of the cohort's column ``by``) in common.

        Decided by the cohort's ids and the seed alone: the same in every process and round, whatever came of the
        studies. (torch's ``random_split`` knows no patients.) Raises ``FlipError`` E0923 and E0926, see
        ``data.split.split_studies``.
        """
        return tuple(self._over(part) for part in self._selection.split(by, fractions, seed))

    def readable(self, max_skipped: float = 0.05, *, pixels: bool = False) -> StudyDataset:
        """The same without the studies that cannot be read, which its manifest counts as ``unreadable``.

        Headers and sizes of all files are looked at, side by side, when the data set is first used; in ``arriving``
        study by study. Damage inside compressed pixels is found only with ``pixels``, which makes every item once (and
        so fills the cache). Raises ``FlipError`` E0927 then, when more than the share ``max_skipped`` is unreadable.
        """
        return self._over(self._selection.checked(Check(max_skipped, pixels)))

    def arriving(self) -> IterableDataset[Any]:
        """The items in the order in which their studies come, the first as soon as its study is there.

        For this process alone: a DataLoader with ``num_workers=0`` (``FlipError`` E0928 otherwise).
        """
        return _Arriving(self)

    # -- an item ----------------------------------------------------------------------------------------------

    def _over(self, selection: Selection) -> StudyDataset:
        return StudyDataset(selection, self._columns, self._transform)

    def _records(self) -> tuple[Record, ...]:
        try:
            return self._selection.records()
        except FlipError as error:
            if error.code == "E0928" and get_worker_info() is not None:
                raise WorkerError(error.code) from None
            raise

    def _at(self, index: SupportsIndex) -> tuple[Record, int, int]:
        records = self._records()
        place = range(len(records))[operator.index(index)]
        return records[place], place + 1, len(records)

    def _item(self, record: Record, place: int, total: int) -> Any:
        with _named(place, total):
            arrays = self._selection.recipe.arrays(record)
        values = self._values(record)
        if not values.keys().isdisjoint(arrays):
            raise FlipError("E0925", problem="it returned a key that is the target or a column of the item")
        if record.target is not None:
            kind = torch.int64 if isinstance(record.target, int) else torch.float32
            values[TARGET] = torch.tensor(record.target, dtype=kind)
        item = {name: torch.from_numpy(array) for name, array in arrays.items()} | values
        return item if self._transform is None else self._transform(item)

    def _values(self, record: Record) -> Item:
        target = {} if record.target is None else {TARGET: record.target}
        return target | dict(zip(self._columns, record.columns, strict=True))

    def _arrive(self) -> Iterator[Any]:
        for record, place, total in self._selection.arriving():
            yield self._item(record, place, total)


def _plain_paths(record: Record) -> Item:
    paths: Item = {part: files[0] if len(files) == 1 else files for part, files in record.paths().items()}
    if record.folder is not None:
        paths[IMAGE] = f"{record.root}/{record.folder}".rstrip("/")
    return paths


class _Arriving(IterableDataset[Any]):
    """See ``StudyDataset.arriving``."""

    def __init__(self, data: StudyDataset) -> None:
        self._data = data

    def __iter__(self) -> Iterator[Any]:
        if get_worker_info() is not None:
            raise WorkerError("E0928")
        return self._data._arrive()

    def __reduce__(self) -> tuple[Any, ...]:
        raise FlipError("E0928")


class WorkerError(Exception):
    """A ``FlipError`` on its way out of a DataLoader's worker: torch keeps its type and its traceback's text only.

    torch calls a type that has ``message`` with that text, and it becomes the error again here. The text is read
    strictly: only places, and sentences of ours, pass.
    """

    message = "torch asks for it"
    _SHAPE = re.compile(r"WorkerError: (?:E0928|E0920 (\d+) (\d+) (\w+)(?: ([\d.]+))?)\s*$")

    def __init__(self, text: str = "", *, message: str | None = None) -> None:
        super().__init__(text)
        if message is None:
            return
        found = self._SHAPE.search(message)
        if found is None:
            raise RuntimeError("a data set's worker process failed")
        if found[1] is None:
            raise FlipError("E0928")
        raise _unreadable(int(found[1]), int(found[2]), VolumeError(Problem[found[3]], syntax=found[4] or ""))


@contextmanager
def _named(place: int, total: int) -> Iterator[None]:
    """What is wrong with a study's files becomes an error that names the study by its place."""
    try:
        yield
    except VolumeError as error:
        if get_worker_info() is not None:
            raise WorkerError(f"E0920 {place} {total} {error.problem.name} {error.syntax}") from None
        raise _unreadable(place, total, error) from None


def _unreadable(place: int, total: int, error: VolumeError) -> FlipError:
    problem, suggestion = error.problem.value, error.problem.suggestion
    if error.syntax:
        problem = f"{problem} ({compression(error.syntax)})"
    return FlipError("E0920", position=f"{place:,}", total=f"{total:,}", problem=problem, suggestion=suggestion)


def _cached(recipe: Recipe, studies: ManyStudies, cache_bytes: int) -> Recipe:
    """The recipe with a cache, where there is a folder for one, and where ``prepare`` can be told from others."""
    function = identity(recipe.prepare)
    if studies.derived_dir is None or function is None:
        why = "there is no folder for them" if studies.derived_dir is None else "what prepare() does depends on objects"
        logger.warning("derived tensors are not cached: %s", why)
        return recipe
    return replace(recipe, cache=DerivedCache(studies.derived_dir, cache_bytes), function=function)


def _check_names(names: Sequence[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise FlipError(
                "E0923",
                column=name,
                problem="an item already has a part of that name",
                suggestion="rename the column in the cohort, or name it once",
            )
