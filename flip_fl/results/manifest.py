"""What a results bundle says of itself: ``manifest.json``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flip_fl.results.contents import TRAINED, Contents

SCHEMA = "flip-fl.bundle/1"
MANIFEST = "manifest.json"
READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle."""

    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """Every file with its digest, and everything that was there and left out, with the reason.

    ``versions``: of the packages that made the model; ``global_round``: the round of the global model; ``contents``:
    what belongs in, as the job has said.
    """

    files: Mapping[str, FileEntry]
    left_out: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    model_id: str | None = None
    global_round: int | None = None
    contents: Contents = TRAINED
    schema: str = SCHEMA

    def to_json(self) -> str:
        """The file's text: the same for the same content."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read a manifest. Raises ``ValueError`` saying what is wrong with it."""
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("schema") != SCHEMA:
            raise ValueError(f"it is not of the form {SCHEMA}")
        files = {name: _entry(entry) for name, entry in dict(data.get("files") or {}).items()}
        left_out = data.get("left_out") or []
        if not isinstance(left_out, list) or not all(isinstance(line, str) for line in left_out):
            raise ValueError("left_out is not a list of texts")
        return cls(
            files=files,
            left_out=tuple(left_out),
            versions={str(name): str(version) for name, version in dict(data.get("versions") or {}).items()},
            model_id=data.get("model_id"),
            global_round=data.get("global_round"),
            contents=Contents.from_json(data["contents"]) if "contents" in data else TRAINED,
        )


def fingerprint(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a file, read piece by piece."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as source:
        while piece := source.read(READ_BYTES):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _entry(entry: Any) -> FileEntry:
    if not isinstance(entry, dict):
        raise ValueError("a file's entry is not an object")
    digest, size = entry.get("sha256"), entry.get("size_bytes")
    if not isinstance(digest, str) or not isinstance(size, int) or isinstance(size, bool):
        raise ValueError("a file's entry lacks sha256 or size_bytes")
    return FileEntry(sha256=digest, size_bytes=size)
