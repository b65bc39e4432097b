"""From the files of a study to the arrays of an item: which files match, how they are read, what is kept of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol

from flip_fl.data.derived import DerivedCache
from flip_fl.data.identity import entry_key
from flip_fl.data.volumes import Problem, Volume, VolumeError, check_volume, is_nifti, read_volume
from flip_fl.errors import FlipError
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from flip_fl.data.manifest import Manifest

    Array = NDArray[np.generic]

IMAGE, LABEL, TARGET = "image", "label", "target"
Prepare = Callable[[dict[str, Volume]], Mapping[str, Any]]
_TYPES = frozenset(kind.value for kind in ResourceType)


class FileOfStudy(Protocol):
    """One file: where, how many bytes, when written."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...


class OneStudy(Protocol):
    """One study that came: see ``data.images.Study``."""

    @property
    def accession_id(self) -> str: ...
    @property
    def folders(self) -> Mapping[ResourceType, Path]: ...
    @property
    def files(self) -> Sequence[FileOfStudy]: ...


class ManyStudies(Protocol):
    """What a data set asks of ``data.images.Studies``."""

    @property
    def cohort(self) -> pd.DataFrame: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def derived_dir(self) -> Path | None: ...
    @property
    def asked(self) -> int: ...
    @property
    def settled(self) -> int: ...
    def studies(self) -> Sequence[OneStudy]: ...
    def arriving(self) -> Iterator[OneStudy]: ...


class Glob:
    """A pattern that is matched from the right against relative paths, at any depth, as ``Path.rglob`` does.

    Raises ``FlipError`` E0924 for one that is empty, absolute, climbs, or is malformed.
    """

    def __init__(self, pattern: str) -> None:
        parts = PurePosixPath(pattern).parts if isinstance(pattern, str) else ()
        problem = None
        if not parts:
            problem = "it is empty"
        elif parts[0].startswith("/"):
            problem = "it is absolute"
        elif ".." in parts:
            problem = "it holds .."
        else:
            try:
                self._match = re.compile(_expression(parts)).fullmatch
            except re.error:
                problem = "its brackets are malformed"
        if problem is not None:
            raise FlipError("E0924", pattern=pattern, problem=problem)
        self.pattern = pattern

    def __reduce__(self) -> tuple[Any, ...]:
        return Glob, (self.pattern,)

    def matches(self, relative: str) -> bool:
        return self._match(relative) is not None


def _expression(parts: Sequence[str]) -> str:
    *folders, last = parts
    above = "".join("(?:[^/]+/)*" if part == "**" else f"{_name(part)}/" for part in folders)
    return f"(?s:(?:.*/)?{above}{'.+' if last == '**' else _name(last)})"


def _name(glob: str) -> str:
    """The expression for one name. A bracket that is not closed is an ordinary character."""
    pieces: list[str] = []
    at = 0
    while at < len(glob):
        character = glob[at]
        end = glob.find("]", at + (3 if glob.startswith("!", at + 1) else 2)) if character == "[" else -1
        if end > 0:
            inside = glob[at + 1 : end]
            negated = inside.startswith("!")
            among = re.sub(r"([\\\[\]^&~|])", r"\\\1", inside[negated:]).replace("--", r"\--")
            pieces.append(f"(?!/)[{'^' if negated else ''}{among}]")
            at = end
        else:
            pieces.append({"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character)))
        at += 1
    return "".join(pieces)


@dataclass(frozen=True, slots=True)
class Record:
    """One study as an item needs it; small, for every worker process gets all of them.

    ``image`` and ``label`` are names of files relative to ``root``, with NUL between them; ``folder`` holds the image's
    files and no others, where there are several and that is so; ``stamp`` says what the files were like when listed.
    """

    study: str = field(repr=False)
    root: str = field(repr=False)
    image: str = field(repr=False)
    label: str = field(repr=False)
    folder: str | None = field(repr=False)
    stamp: str = field(repr=False)
    target: float | int | None
    columns: tuple[Any, ...]

    def paths(self) -> dict[str, list[str]]:
        """The absolute paths of the image's files, and of the label's."""
        parts = {IMAGE: self.image, LABEL: self.label}
        return {part: [f"{self.root}/{name}" for name in names.split("\0")] for part, names in parts.items() if names}


@dataclass(frozen=True)
class Recipe:
    """How an item is made of a study's files. ``function`` is the identity of ``prepare`` where results are cached."""

    image: Glob
    label: Glob | None = None
    prepare: Prepare | None = None
    cache: DerivedCache | None = None
    function: str = ""

    def record(self, study: OneStudy, target: float | int | None, columns: tuple[Any, ...]) -> Record | None:
        """The study's files that match, or None where a pattern matches nothing. Looks at no disk.

        Raises ``AmbiguousError`` where files of which only one can be meant are several.
        """
        root = _root(study)
        listed = [(file.path[len(root) + 1 :], file) for file in study.files]
        found: dict[str, list[str]] = {IMAGE: [], LABEL: []}
        stamp: list[str] = []
        for part, glob in ((IMAGE, self.image), (LABEL, self.label)):
            if glob is None:
                continue
            matching = [(name, file) for name, file in listed if glob.matches(name)]
            if not matching:
                return None
            names = [name for name, _ in matching]
            if len(names) > 1 and (part == LABEL or any(map(is_nifti, names))):
                raise AmbiguousError(part, glob.pattern, len(names))
            found[part] = names
            if self.cache is not None:
                stamp += [part, glob.pattern, *(f"{name}\0{file.size}\0{file.mtime_ns}" for name, file in matching)]
        return Record(
            study=study.accession_id,
            root=root,
            image="\0".join(found[IMAGE]),
            label="\0".join(found[LABEL]),
            folder=_folder(found[IMAGE], [name for name, _ in listed]),
            stamp=entry_key(self.function, study.accession_id, stamp) if self.cache is not None else "",
            target=target,
            columns=columns,
        )

    def volumes(self, record: Record) -> dict[str, Volume]:
        """The images as they are stored. Raises ``VolumeError``."""
        return {part: read_volume(paths) for part, paths in record.paths().items()}

    def check(self, record: Record, *, pixels: bool) -> Problem | None:
        """What is wrong with the study's files, as far as headers tell, or with ``pixels`` the whole of them."""
        try:
            if pixels:
                self.arrays(record)
            else:
                for paths in record.paths().values():
                    check_volume(paths)
        except VolumeError as error:
            return error.problem
        return None

    def arrays(self, record: Record) -> dict[str, Array]:
        """The arrays of an item, out of the cache where they are.

        Raises ``VolumeError``, ``FlipError`` E0925 for what ``prepare`` returns, and what ``prepare`` raises.
        """
        if self.cache is not None and (cached := self.cache.get(record.stamp)) is not None:
            return cached
        volumes = self.volumes(record)
        prepared = volumes if self.prepare is None else self.prepare(volumes)
        if not isinstance(prepared, Mapping) or not prepared:
            raise FlipError("E0925", problem=f"it returned {_kind(prepared)}")
        arrays = {name: _plain(name, value) for name, value in prepared.items()}
        if self.cache is not None:
            self.cache.put(record.stamp, arrays)
        return arrays


class AmbiguousError(Exception):
    """A pattern matches several files where one is needed. The text is the pattern, which the researcher wrote."""

    def __init__(self, part: str, pattern: str, count: int) -> None:
        super().__init__(pattern)
        self.part = part
        self.pattern = pattern
        self.count = count


def _root(study: OneStudy) -> str:
    """The folder that patterns are relative to: the study's own, also where a single type's folder came below it."""
    folders = list({str(folder) for folder in study.folders.values()})
    root = folders[0]
    for other in folders[1:]:
        while not f"{other}/".startswith(f"{root}/"):
            root = root.rpartition("/")[0]
    above, _, name = root.rpartition("/")
    return above if name in _TYPES and name != study.accession_id else root


def _folder(names: Sequence[str], listed: Sequence[str]) -> str | None:
    """The one folder, relative to the root, whose files are just these; None for a single file, and for others."""
    folders = {name.rpartition("/")[0] for name in names}
    if len(names) == 1 or len(folders) > 1:
        return None
    (folder,) = folders
    beside = sum(name.startswith(f"{folder}/" if folder else "") for name in listed)
    return folder if beside == len(names) else None


def _plain(name: object, value: object) -> Array:
    """What ``prepare`` returned as an array that torch takes: a volume gets its channel axis; floats are float32."""
    import numpy as np

    if not isinstance(name, str):
        raise FlipError("E0925", problem=f"it returned a key that is no text but {_kind(name)}")
    array = value.array[None] if isinstance(value, Volume) else np.asarray(value)
    wanted = _TORCH_KINDS.get((array.dtype.kind, array.dtype.itemsize), array.dtype.newbyteorder("="))
    if array.dtype.kind not in "biuf":
        raise FlipError("E0925", problem=f"it returned {_kind(value)} that holds no numbers")
    return np.require(array, dtype=wanted, requirements=["C", "W"])


# float64 would not fit a model's weights; most of torch knows no unsigned numbers but uint8.
_TORCH_KINDS: Mapping[tuple[str, int], Any] = {
    ("f", 8): "float32",
    ("f", 16): "float32",
    ("u", 2): "int32",
    ("u", 4): "int64",
    ("u", 8): "int64",
}


def _kind(value: object) -> str:
    return f"a value of type {type(value).__name__}"
