"""Whether a results bundle is whole, its model loads (or its scores can be read), and its score can be had again."""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flip_fl.app import weights
from flip_fl.errors import FlipError
from flip_fl.results.bundle import GLOBAL_MODEL, MODELS
from flip_fl.results.evaluation import FAILURES, RESULTS, sound
from flip_fl.results.manifest import MANIFEST, READ_BYTES, Manifest, fingerprint

MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Verified:
    """A bundle that can be used: its manifest, the models in it, shapes and dtypes of the global model's weights.

    The results of an evaluation hold no model.
    """

    manifest: Manifest
    models: tuple[str, ...]
    parameters: weights.Shapes


def verify(bundle: Path) -> Verified:
    """Check every digest, load every model, strictly, in a process of its own, and read what an evaluation found.

    Raises ``FlipError`` E0702 naming the first thing that is wrong.
    """
    with _unpacked(bundle) as (folder, manifest):
        models = tuple(name for name in MODELS if name in manifest.files)
        if RESULTS in manifest.files:
            _check_evaluation(bundle, folder)
        if not models:
            return Verified(manifest=manifest, models=(), parameters={})
        try:
            shapes = weights.load_models(folder, [folder / name for name in models])
        except FlipError as error:
            raise _unusable(bundle, error.what) from None
    return Verified(manifest=manifest, models=models, parameters=shapes[models.index(GLOBAL_MODEL)])


def reproduce(
    bundle: Path, cohorts: Mapping[str, Path], *, images: Path | None = None, model: str = GLOBAL_MODEL
) -> dict[str, dict[str, float]]:
    """The bundle's ``model`` scored by the bundle's own ``validate`` on each site's cohort: slot → metric → value.

    ``cohorts``: the CSV of each slot. Raises ``FlipError`` E0702 when the bundle, its model or ``validate`` fails.
    """
    with _unpacked(bundle) as (folder, manifest):
        if model not in manifest.files:
            raise _unusable(bundle, f"it has no {model}")
        number = manifest.global_round or 1
        try:
            scores = weights.score(
                folder,
                folder / model,
                cohorts,
                images=images,
                round=number,
                total_rounds=number,
                name=bundle.name,
            )
        except FlipError as error:
            raise error if error.code == "E0702" else _unusable(bundle, error.what) from None
    return {slot: dict(found.metrics) for slot, found in scores.items()}


def read_evaluation(bundle: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What a bundle that was verified says of each site and model: client → ``SRV_<model>`` → values.

    Raises ``FlipError`` E0702 when it has none.
    """
    with _unpacked(bundle) as (folder, manifest):
        if RESULTS not in manifest.files:
            raise _unusable(bundle, f"it has no {RESULTS}")
        return _check_evaluation(bundle, folder)


def _check_evaluation(bundle: Path, folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    try:
        results, failures = (json.loads((folder / name).read_bytes()) for name in (RESULTS, FAILURES))
    except (OSError, ValueError, RecursionError) as error:
        raise _unusable(bundle, f"its results cannot be read ({type(error).__name__})") from None
    problem = sound(results, failures)
    if problem is not None:
        raise _unusable(bundle, problem)
    found: dict[str, dict[str, dict[str, Any]]] = results
    return found


def read_manifest(bundle: Path) -> Manifest:
    """The manifest alone, nothing checked against it. Raises ``FlipError`` E0702."""
    with _opened(bundle) as archive:
        return _manifest(bundle, archive)


@contextlib.contextmanager
def _unpacked(bundle: Path) -> Iterator[tuple[Path, Manifest]]:
    """The bundle's files in a temporary folder, digests checked."""
    with tempfile.TemporaryDirectory(prefix="flip-bundle-") as name, _opened(bundle) as archive:
        folder = Path(name)
        manifest = _manifest(bundle, archive)
        _check_names(bundle, archive, manifest)
        for member, entry in manifest.files.items():
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            _extract(bundle, archive, member, target, entry.size_bytes)
            if (entry.size_bytes, entry.sha256) != fingerprint(target):
                raise _unusable(bundle, f"{member} is not what the manifest says: its digest or size differs")
        yield folder, manifest


def _extract(bundle: Path, archive: zipfile.ZipFile, member: str, target: Path, limit: int) -> None:
    """Unpack one file, and stop soon after the ``limit`` bytes that the manifest promises."""
    written = 0
    try:
        with archive.open(member) as source, target.open("wb") as out:
            while (piece := source.read(READ_BYTES)) and written <= limit:
                written += out.write(piece)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise _unusable(bundle, f"{member} cannot be unpacked ({type(error).__name__})") from None


def _check_names(bundle: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
    inside = archive.namelist()
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or "\\" in name or ".." in parts or PurePosixPath(name).as_posix() != name:
            raise _unusable(bundle, "the manifest names a path that leads out of the bundle")
    if len(set(inside)) != len(inside):
        raise _unusable(bundle, "a file is in it twice")
    missing = [name for name in manifest.files if name not in inside]
    if missing:
        raise _unusable(bundle, f"{missing[0]} is in the manifest but not in the bundle")
    extra = [name for name in inside if name not in manifest.files and name != MANIFEST and not name.endswith("/")]
    if extra:
        raise _unusable(bundle, f"{len(extra)} files are not in the manifest")
    if GLOBAL_MODEL not in manifest.files and RESULTS not in manifest.files:
        raise _unusable(bundle, f"it has no {GLOBAL_MODEL}")


@contextlib.contextmanager
def _opened(bundle: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(bundle)
    except FileNotFoundError:
        raise _unusable(bundle, "there is no such file") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise _unusable(bundle, f"it is not a zip ({type(error).__name__})") from None
    with archive:
        yield archive


def _manifest(bundle: Path, archive: zipfile.ZipFile) -> Manifest:
    try:
        if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
            raise _unusable(bundle, f"its {MANIFEST} is too large")
        return Manifest.from_json(archive.read(MANIFEST).decode("utf-8"))
    except KeyError:
        raise _unusable(bundle, f"it has no {MANIFEST}") from None
    except (ValueError, TypeError, json.JSONDecodeError, zipfile.BadZipFile) as error:
        raise _unusable(bundle, f"its {MANIFEST} cannot be read ({error})") from None


def _unusable(bundle: Path, problem: str) -> FlipError:
    return FlipError(
        "E0702",
        bundle=bundle.name,
        problem=problem,
        suggestion="fetch it again; if that does not help, run the job again",
    )
