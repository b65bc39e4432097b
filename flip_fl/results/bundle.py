"""The results bundle: the model, what was measured, and the code and config that rebuild it.

Only what is known to belong in is put in; everything else that lies there is named in the manifest as left out.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO

from flip_fl.errors import FlipError
from flip_fl.results.contents import TRAINED, Contents
from flip_fl.results.left_out import described, sorted_out
from flip_fl.results.manifest import MANIFEST, FileEntry, Manifest, fingerprint
from flip_fl.results.zipped import Drain, added, kind_of, opened

__all__ = ["Bundle", "build", "fingerprint", "gather", "write"]

MODELS_CODE = "models.py"
APP_CONFIG = "config.json"
QUERY = "QUERY"
_PACKAGES = ("flip_fl", "numpy", "torch", "nvflare", "flwr")
# A zip knows no earlier day; a fixed one makes equal contents equal bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Source:
    """Where a file of a bundle comes from: a file as it was when it was looked at, or the bytes themselves."""

    path: Path | None = None
    content: bytes = b""
    state: tuple[int, int, int] = (0, 0, 0)

    @classmethod
    def of(cls, path: Path) -> Source:
        """The file ``path`` as it is now."""
        return cls(path, state=_state(path.stat()))

    @property
    def size_bytes(self) -> int:
        return len(self.content) if self.path is None else self.state[0]

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Its bytes. Raises ``FlipError`` E0702, calling it ``name``, when it is not what was looked at any more."""
        if self.path is None:
            yield io.BytesIO(self.content)
            return
        try:
            source = self.path.open("rb")
        except FileNotFoundError:
            raise _unusable("results", f"the server's copy of {name} went before it was stored") from None
        with source:
            yield source
            if _state(os.fstat(source.fileno())) != self.state:
                raise _unusable("results", f"the server's copy of {name} was changed before it was stored")


@dataclass(frozen=True)
class Bundle:
    """What goes into a bundle and what is left out; nothing of it was read yet but the config."""

    files: Mapping[str, Source]
    left_out: tuple[str, ...]
    contents: Contents
    model_id: str | None = None
    global_round: int | None = None

    @property
    def size_bytes(self) -> int:
        """The size of its files, to which the zip adds little."""
        return sum(source.size_bytes for source in self.files.values())

    def chunks(self) -> Iterator[bytes]:
        """The zip, produced while it is read; the manifest comes last. The same bytes each time.

        Raises ``FlipError`` E0702 when a file has changed since it was looked at.
        """
        drain = Drain()
        entries: dict[str, FileEntry] = {}
        with opened(drain) as archive:
            for name, source in sorted(self.files.items()):
                digest, size = hashlib.sha256(), 0
                with source.opened(name) as file:
                    for piece in added(archive, _info(name), file, source.size_bytes):
                        digest.update(piece)
                        size += len(piece)
                        yield from drain.take()
                entries[name] = FileEntry(sha256=digest.hexdigest(), size_bytes=size)
            archive.writestr(_info(MANIFEST), self.manifest(entries).to_json())
        yield from drain.take()

    def manifest(self, entries: Mapping[str, FileEntry]) -> Manifest:
        """The manifest, once the digests are known."""
        return Manifest(
            files=entries,
            left_out=self.left_out,
            versions=dict(_versions()),
            model_id=self.model_id,
            global_round=self.global_round,
            contents=self.contents,
        )


def gather(
    folder: Path | None,
    *,
    app_dir: Path,
    model_id: str | None = None,
    global_round: int | None = None,
    contents: Contents = TRAINED,
    files: Mapping[str, Path] | None = None,
) -> Bundle:
    """The bundle of the result files in ``folder``, ``files`` (name → file), and the code and config in ``app_dir``.

    Of the first two goes in what is in ``contents``. Raises ``FlipError`` E0702 when one that it requires, or the app's
    models.py or config.json, is missing.
    """
    results, rest = sorted_out(folder, lambda name: name in contents.names) if folder is not None else ({}, [])
    for name, path in (files or {}).items():
        if name in contents.names and path.is_file() and not path.is_symlink():
            results[name] = path
        else:
            rest.append(name)
    code, other = sorted_out(app_dir, lambda name: name == APP_CONFIG or name.endswith(".py"))
    code = {name: path for name, path in code.items() if name not in results}
    sources = {name: Source.of(path) for name, path in {**results, **code}.items()}
    for needed in (*contents.required, MODELS_CODE, APP_CONFIG):
        if needed not in sources:
            raise _unusable("results", f"there is no {needed}", "see the server's log")
    left_out = [*described(rest), *described(other)]
    config = _without_query(code[APP_CONFIG])
    if config is not None:
        sources[APP_CONFIG] = Source(content=config)
        left_out.append(f"{APP_CONFIG}, {QUERY}: SQL stays with the job")
    left_out += [f"{item.name}: {item.absent}" for item in contents.items if item.absent and item.name not in sources]
    return Bundle(sources, tuple(left_out), contents, model_id, global_round)


def build(
    folder: Path,
    out_zip: Path,
    *,
    app_dir: Path,
    model_id: str | None = None,
    global_round: int | None = None,
    contents: Contents = TRAINED,
    files: Mapping[str, Path] | None = None,
) -> Manifest:
    """Write the bundle that ``gather`` finds to ``out_zip``: models stored, texts deflated, the same bytes each time.

    Raises as ``gather`` does, and ``OSError`` when it cannot be written.
    """
    found = gather(
        folder, app_dir=app_dir, model_id=model_id, global_round=global_round, contents=contents, files=files
    )
    write(found, out_zip)
    with zipfile.ZipFile(out_zip) as archive:
        return Manifest.from_json(archive.read(MANIFEST).decode("utf-8"))


def write(bundle: Bundle, out_zip: Path) -> tuple[int, str]:
    """Write ``bundle`` to ``out_zip``, which appears only once it is complete; its size in bytes and its SHA-256.

    Raises ``OSError`` when it cannot be written.
    """
    partial = out_zip.with_name(f".{out_zip.name}.{os.getpid()}.part")
    digest, size = hashlib.sha256(), 0
    try:
        with partial.open("wb") as out:
            for chunk in bundle.chunks():
                digest.update(chunk)
                size += out.write(chunk)
        partial.replace(out_zip)
    finally:
        partial.unlink(missing_ok=True)
    return size, digest.hexdigest()


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


def _state(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _info(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, date_time=_EPOCH)
    info.compress_type = kind_of(name)
    info.external_attr = 0o644 << 16
    return info


def _unusable(bundle: str, problem: str, suggestion: str = "run the job again") -> FlipError:
    return FlipError("E0702", bundle=bundle, problem=problem, suggestion=suggestion)
