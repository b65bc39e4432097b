"""A folder of studies into the archive: ``<accession>/<TYPE>/…`` as it is, or its files sorted by what they are."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.trust import files, names
from flip_fl.trust.refusal import Refusal
from flip_fl.values import ResourceType

_TYPES = frozenset(kind.value for kind in ResourceType if kind is not ResourceType.ALL)
_NIFTI = (".nii", ".nii.gz")
_DICOM_AT, _DICOM = 128, b"DICM"


@dataclass(frozen=True)
class LoadedImages:
    """What went into the archive."""

    studies: int
    files: int
    size_bytes: int


def load_images(archive: Path, folder: Path, only: Collection[str] | None = None) -> LoadedImages:
    """Copy each study of ``folder`` (``only`` those, if given) into ``archive``, in place of what is there of it.

    A study is a folder named by its accession number. Files in ``DICOM``, ``NIFTI`` or ``SEG`` keep their place; of
    others NIfTI files go to ``NIFTI``, and the rest to ``DICOM`` where it is DICOM, or nothing else is there. Links are
    followed inside ``folder``. Raises ``FlipError`` E0954.
    """
    try:
        base = folder.resolve(strict=True)
        studies = sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise FlipError("E0954", folder=folder, problem=_reason(error)) from None
    if not studies:
        raise FlipError("E0954", folder=folder, problem="it holds no folder of a study")
    if archive.resolve().is_relative_to(base) or base.is_relative_to(archive.resolve()):
        raise FlipError("E0954", folder=folder, problem="it is the archive, or one of the two lies in the other")
    if only is not None:
        studies = [study for study in studies if study.name in only]
    count = size = 0
    try:
        archive.mkdir(parents=True, exist_ok=True)
        for study in studies:
            _check_name(folder, study.name)
            placed = _places(folder, base, study)
            _copy(archive, study.name, placed)
            count += len(placed)
            size += sum(path.stat().st_size for path in placed.values())
    except OSError as error:
        raise FlipError("E0954", folder=folder, problem=_reason(error)) from None
    return LoadedImages(len(studies), count, size)


def missing_studies(folder: Path, names: Collection[str]) -> int:
    """How many of a cohort's studies have no folder in ``folder``. Raises ``FlipError`` E0954 if none has one."""
    missing = sum(not (folder / name).is_dir() for name in names)
    if names and missing == len(names) and folder.is_dir():
        raise FlipError("E0954", folder=folder, problem="none of its folders is named by an accession_id of the cohort")
    return missing


def _check_name(folder: Path, name: str) -> None:
    try:
        names.check_study(name)
    except Refusal:
        raise FlipError("E0954", folder=folder, problem="a study's folder has no accession number's name") from None


def _places(folder: Path, base: Path, study: Path) -> dict[str, Path]:
    """Path in the archive's study → the file to copy there."""
    found = []
    for root, below, here in os.walk(study):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(root) / name for name in sorted(here) if not name.startswith(".")]
    loose = [path for path in found if path.relative_to(study).parts[0] not in _TYPES]
    has_nifti = any(path.name.lower().endswith(_NIFTI) for path in loose)
    places = {}
    for path in found:
        real = path.resolve()
        if base not in real.parents or not real.is_file():
            raise FlipError("E0954", folder=folder, problem="a file of a study is a link that leads out, or no file")
        relative = path.relative_to(study)
        if relative.parts[0] not in _TYPES:
            nifti = path.name.lower().endswith(_NIFTI) or (has_nifti and not _is_dicom(real))
            relative = Path(ResourceType.NIFTI if nifti else ResourceType.DICOM) / relative
        places[relative.as_posix()] = real
    return places


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() == ".dcm":
        return True
    with path.open("rb") as source:
        source.seek(_DICOM_AT)
        return source.read(len(_DICOM)) == _DICOM


def _copy(archive: Path, name: str, places: dict[str, Path]) -> None:
    with files.workspace(archive / names.PARTIAL) as space, files.opened_folder(archive) as opened:
        fresh = space / name
        fresh.mkdir()
        for place, real in places.items():
            copy = fresh / place
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(real, copy)
        files.put_in_place(fresh, opened, name)


def _reason(error: OSError) -> str:
    # The error's own text names the path, and with it the accession number.
    return os.strerror(error.errno) if error.errno else type(error).__name__
