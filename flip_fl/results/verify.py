"""Whether a results bundle is whole, its model loads (or its scores can be read), and its score can be had again."""

from __future__ import annotations

import contextlib
import json
import tempfile
import zipfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flip_fl.app import weights
from flip_fl.app.isolation.rules import Isolation
from flip_fl.app.pictures import Pixels
from flip_fl.errors import FlipError
from flip_fl.results.bundle import APP_CONFIG, MODELS_CODE, Bundle
from flip_fl.results.contents import EVALUATION, EVALUATION_FAILURES, GLOBAL_MODEL, Contents, Item, Kind, is_plain
from flip_fl.results.evaluation import sound
from flip_fl.results.manifest import MANIFEST, READ_BYTES, Manifest, fingerprint
from flip_fl.results.shapes import problem_of

MAX_MANIFEST_BYTES = 4 << 20


@dataclass(frozen=True)
class Verified:
    """A bundle that can be used: its manifest, the models in it (the job's result first), shapes and dtypes of the
    first one's weights. An evaluation has no model of its own."""

    manifest: Manifest
    models: tuple[str, ...]
    parameters: weights.Shapes


def verify(bundle: Path, expected: Contents | None = None) -> Verified:
    """Check every digest, look at every file's form, and load every model, strictly, in a process of its own.

    What the bundle must hold is what its manifest says, and ``expected``, where that is given. Raises ``FlipError``
    E0702 naming the first thing that is wrong.
    """
    with unpacked(bundle) as (folder, manifest):
        if expected is not None and manifest.contents != expected:
            raise _unusable(bundle.name, "it is of another kind of job than was expected")
        found = {item: folder / item.name for item in manifest.contents.items if item.name in manifest.files}
        models = _check(bundle.name, folder, found)
    return Verified(manifest, tuple(models), next(iter(models.values()), {}))


def check(bundle: Bundle, *, walls: Isolation | None = None) -> None:
    """Look at every file's form and load every model of a bundle that is about to be stored, with no code but its own.

    ``walls``: how far that code is kept apart.
    Raises ``FlipError`` E0702 naming the first thing that is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="flip-bundle-") as name:
        folder = Path(name)
        for member, source in bundle.files.items():
            if member in bundle.contents.names:
                continue
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.opened(member) as file:
                target.write_bytes(file.read())
        sources = {item: bundle.files[item.name].path for item in bundle.contents.items if item.name in bundle.files}
        _check("results", folder, {item: path for item, path in sources.items() if path is not None}, walls)


def _check(
    bundle: str, code: Path, found: Mapping[Item, Path], walls: Isolation | None = None
) -> dict[str, weights.Shapes]:
    """The models among ``found`` (item → its file) with their shapes, once all is sound."""
    for item, path in found.items():
        problem = problem_of(item, path)
        if problem is not None:
            raise _unusable(bundle, f"{item.name}: {problem}")
    stages: dict[str | None, dict[str, Path]] = {}
    for item, path in found.items():
        if item.kind is Kind.MODEL:
            stages.setdefault(item.stage, {})[item.name] = path
    shapes: dict[str, weights.Shapes] = {}
    for stage, models in stages.items():
        try:
            loaded = weights.load_models(code, list(models.values()), stage, walls=walls)
            shapes |= dict(zip(models, loaded, strict=True))
        except FlipError as error:
            raise _unusable(bundle, error.what) from None
    return {item.name: shapes[item.name] for item in found if item.kind is Kind.MODEL}


def reproduce(
    bundle: Path, cohorts: Mapping[str, Path], *, images: Path | None = None, model: str = GLOBAL_MODEL
) -> dict[str, dict[str, float]]:
    """The bundle's ``model`` scored by the bundle's own ``validate`` on each site's cohort: slot → metric → value.

    ``cohorts``: the CSV of each slot. Raises ``FlipError`` E0702 when the bundle, its model or ``validate`` fails.
    """
    with unpacked(bundle) as (folder, manifest):
        item = next((item for item in manifest.contents.models if item.name == model), None)
        if item is None or model not in manifest.files:
            raise _unusable(bundle.name, f"it has no {model}")
        number = manifest.global_round or 1
        try:
            scores = weights.score(
                folder,
                folder / model,
                cohorts,
                images=images,
                round=number,
                total_rounds=number,
                stage=item.stage,
                name=bundle.name,
            )
        except FlipError as error:
            raise error if error.code == "E0702" else _unusable(bundle.name, error.what) from None
    return {slot: dict(found.metrics) for slot, found in scores.items()}


def generated(bundle: Path, count: int) -> Pixels | None:
    """``count`` pictures made by the bundle's own ``generate`` with its global model; None where it has no such.

    Raises ``FlipError`` E0702 when the bundle fails, E0205 when its model does, E0214 when ``generate`` does.
    """
    with unpacked(bundle) as (folder, _):
        return weights.generate(folder, folder / GLOBAL_MODEL, count)


def read_evaluation(bundle: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """What a bundle says of each site and model of an evaluation: client → ``SRV_<model>`` → values.

    Raises ``FlipError`` E0702 when it fails, or has none that can be used.
    """
    with unpacked(bundle) as (folder, manifest):
        if EVALUATION not in manifest.files or EVALUATION_FAILURES not in manifest.files:
            raise _unusable(bundle.name, f"it has no {EVALUATION}")
        try:
            results, failures = (json.loads((folder / name).read_bytes()) for name in (EVALUATION, EVALUATION_FAILURES))
        except (OSError, ValueError, RecursionError) as error:
            raise _unusable(bundle.name, f"its results cannot be read ({type(error).__name__})") from None
        problem = sound(results, failures)
        if problem is not None:
            raise _unusable(bundle.name, problem)
        found: dict[str, dict[str, dict[str, Any]]] = results
        return found


def read_manifest(bundle: Path) -> Manifest:
    """The manifest alone, nothing checked against it. Raises ``FlipError`` E0702."""
    with _opened(bundle) as archive:
        return _manifest(bundle, archive)


@contextlib.contextmanager
def unpacked(bundle: Path, only: Collection[str] | None = None) -> Iterator[tuple[Path, Manifest]]:
    """The bundle's files (or ``only`` some) in a temporary folder, digests checked. Raises ``FlipError`` E0702."""
    with tempfile.TemporaryDirectory(prefix="flip-bundle-") as name, _opened(bundle) as archive:
        folder = Path(name)
        manifest = _manifest(bundle, archive)
        _check_names(bundle, archive, manifest)
        for member, entry in manifest.files.items():
            if only is not None and member not in only:
                continue
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            _extract(bundle, archive, member, target, entry.size_bytes)
            if (entry.size_bytes, entry.sha256) != fingerprint(target):
                raise _unusable(bundle.name, f"{member} is not what the manifest says: its digest or size differs")
        yield folder, manifest


def _extract(bundle: Path, archive: zipfile.ZipFile, member: str, target: Path, limit: int) -> None:
    """Unpack one file, and stop soon after the ``limit`` bytes that the manifest promises."""
    written = 0
    try:
        with archive.open(member) as source, target.open("wb") as out:
            while (piece := source.read(READ_BYTES)) and written <= limit:
                written += out.write(piece)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise _unusable(bundle.name, f"{member} cannot be unpacked ({_words(error)})") from None


def _words(error: Exception) -> str:
    """``No space left on device`` rather than ``OSError``."""
    return getattr(error, "strerror", None) or type(error).__name__


def _check_names(bundle: Path, archive: zipfile.ZipFile, manifest: Manifest) -> None:
    inside = archive.namelist()
    for name in manifest.files:
        if not is_plain(name):
            raise _unusable(bundle.name, "the manifest names a path that leads out of the bundle")
    if len(set(inside)) != len(inside):
        raise _unusable(bundle.name, "a file is in it twice")
    missing = [name for name in manifest.files if name not in inside]
    if missing:
        raise _unusable(bundle.name, f"{missing[0]} is in the manifest but not in the bundle")
    extra = [name for name in inside if name not in manifest.files and name != MANIFEST and not name.endswith("/")]
    if extra:
        raise _unusable(bundle.name, f"{len(extra)} files are not in the manifest")
    lacking = [name for name in (*manifest.contents.required, MODELS_CODE, APP_CONFIG) if name not in manifest.files]
    if lacking:
        raise _unusable(bundle.name, f"it has no {lacking[0]}")


@contextlib.contextmanager
def _opened(bundle: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(bundle)
    except FileNotFoundError:
        raise _unusable(bundle.name, "there is no such file") from None
    except (zipfile.BadZipFile, OSError) as error:
        raise _unusable(bundle.name, f"it is not a zip ({type(error).__name__})") from None
    with archive:
        yield archive


def _manifest(bundle: Path, archive: zipfile.ZipFile) -> Manifest:
    try:
        if archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
            raise _unusable(bundle.name, f"its {MANIFEST} is too large")
        return Manifest.from_json(archive.read(MANIFEST).decode("utf-8"))
    except KeyError:
        raise _unusable(bundle.name, f"it has no {MANIFEST}") from None
    except (ValueError, TypeError, json.JSONDecodeError, zipfile.BadZipFile) as error:
        raise _unusable(bundle.name, f"its {MANIFEST} cannot be read ({error})") from None


def _unusable(bundle: str, problem: str) -> FlipError:
    return FlipError(
        "E0702",
        bundle=bundle,
        problem=problem,
        suggestion="fetch it again; if that does not help, run the job again",
    )
