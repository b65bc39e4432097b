"""Building the results bundle: the model, what was measured, and the code and config that rebuild it.

Only what is known to belong in is put in; everything else that lies there is named in the manifest as left out.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flip_fl.errors import FlipError
from flip_fl.results.evaluation import FAILURES, RESULTS
from flip_fl.results.manifest import MANIFEST, READ_BYTES, FileEntry, Manifest, fingerprint

__all__ = ["GLOBAL_MODEL", "MODELS", "build", "fingerprint"]

GLOBAL_MODEL = "FL_global_model.pt"
BEST_MODEL = "best_FL_global_model.pt"
MODELS = (GLOBAL_MODEL, BEST_MODEL)
RESULT_FILES = frozenset(
    {
        *MODELS,
        "metrics.json",
        "cross_site_val/cross_val_results.json",
        RESULTS,
        FAILURES,
    }
)
APP_CONFIG = "config.json"
QUERY = "QUERY"
_PACKAGES = ("flip_fl", "numpy", "torch", "nvflare", "flwr")
_STORED = frozenset({".pt"})
# A zip knows no earlier day; a fixed one makes equal contents equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SECRETS = re.compile(r"(^|/)\.env|\.(env|key|pem|crt|p12|pfx)$", re.IGNORECASE)
_DATA = re.compile(
    r"\.(csv|tsv|parquet|xlsx?|nii|dcm|png|jpe?g|npy|npz|h5|hdf5|pkl|pickle|sqlite)(\.gz)?$", re.IGNORECASE
)


def build(
    folder: Path,
    out_zip: Path,
    *,
    app_dir: Path,
    model_id: str | None = None,
    global_round: int | None = None,
) -> Manifest:
    """Write ``out_zip`` from the result files in ``folder`` and the code and config in ``app_dir``.

    Models are stored, texts deflated; equal contents give equal bytes. Raises ``FlipError`` E0702 when the global model
    (or, of an evaluation, its failures) or the app's models.py or config.json is missing.
    """
    results, rest = _sorted_out(folder, lambda name: name in RESULT_FILES)
    code, other = _sorted_out(app_dir, lambda name: name == APP_CONFIG or name.endswith(".py"))
    code = {name: path for name, path in code.items() if name not in results}
    files = {**results, **code}
    for needed in (FAILURES if RESULTS in files else GLOBAL_MODEL, "models.py", APP_CONFIG):
        if needed not in files:
            raise FlipError(
                "E0702", bundle=out_zip.name, problem=f"there is no {needed}", suggestion="see the server's log"
            )
    left_out = [*_described(rest), *_described(other)]
    config = _without_query(files[APP_CONFIG])
    if config is not None:
        left_out.append(f"{APP_CONFIG}, {QUERY}: SQL stays with the job")
    if GLOBAL_MODEL in files and BEST_MODEL not in files:
        left_out.append(f"{BEST_MODEL}: no round was kept as the best (BEST_MODEL_METRIC)")
    with contextlib.ExitStack() as parts:
        if config is not None:
            folder_of_config = Path(parts.enter_context(tempfile.TemporaryDirectory()))
            files[APP_CONFIG] = folder_of_config / APP_CONFIG
            files[APP_CONFIG].write_bytes(config)
        return _write(out_zip, files, left_out, model_id, global_round)


def _write(
    out_zip: Path, files: Mapping[str, Path], left_out: list[str], model_id: str | None, global_round: int | None
) -> Manifest:
    entries = {name: _entry(path) for name, path in files.items()}
    manifest = Manifest(
        files=entries,
        left_out=tuple(left_out),
        versions=dict(_versions()),
        model_id=model_id,
        global_round=global_round,
    )
    with zipfile.ZipFile(out_zip, "w") as archive:
        for name in sorted(files):
            _add(archive, name, files[name])
        info = _info(MANIFEST)
        archive.writestr(info, manifest.to_json())
    return manifest


def _without_query(path: Path) -> bytes | None:
    """The app's config without its SQL, which may name patients; None where it has none."""
    try:
        config = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not isinstance(config, dict) or QUERY not in config:
        return None
    del config[QUERY]
    return (json.dumps(config, indent=2) + "\n").encode()


def _entry(path: Path) -> FileEntry:
    size, digest = fingerprint(path)
    return FileEntry(sha256=digest, size_bytes=size)


def _sorted_out(folder: Path, belongs: Callable[[str], bool]) -> tuple[dict[str, Path], list[str]]:
    """The files below ``folder`` that belong in, by name, and the names of all others; links are never followed."""
    wanted: dict[str, Path] = {}
    others: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted([*names, *(each for each in folders if Path(parent, each).is_symlink())]):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            if belongs(relative) and path.is_file() and not path.is_symlink():
                wanted[relative] = path
            else:
                others.append(relative)
    return wanted, others


def _described(names: list[str]) -> Iterator[str]:
    """A line a file at the top, a line a folder: what lies in a folder of data often bears a patient's number."""
    folders: Counter[str] = Counter()
    for name in names:
        top, _, below = name.partition("/")
        if below:
            folders[top] += 1
        else:
            yield f"{_plain(name)}: {_reason(name)}"
    for top, count in sorted(folders.items()):
        yield f"{_plain(top)}/: {count} file{'s' if count != 1 else ''}, not part of the results"


def _plain(name: str) -> str:
    """The name, unless it could be somebody's number."""
    return name if len(re.findall(r"\d", name)) < 5 and name.isprintable() else f"<a name>{Path(name).suffix[:8]}"


def _reason(name: str) -> str:
    if _SECRETS.search(name):
        return "settings and keys never leave"
    if _DATA.search(name):
        return "data never leaves"
    return "not part of the results"


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    info = _info(name)
    with path.open("rb") as source, archive.open(info, "w", force_zip64=path.stat().st_size >= 1 << 31) as out:
        while piece := source.read(READ_BYTES):
            out.write(piece)


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.compress_type = zipfile.ZIP_STORED if Path(name).suffix in _STORED else zipfile.ZIP_DEFLATED
    info.external_attr = 0o644 << 16
    return info
