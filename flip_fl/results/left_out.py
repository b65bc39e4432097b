"""What of a folder belongs into a bundle, and what is said of the rest."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

_SECRETS = re.compile(r"(^|/)\.env|\.(env|key|pem|crt|p12|pfx)$", re.IGNORECASE)
_DATA = re.compile(
    r"\.(csv|tsv|parquet|xlsx?|nii|dcm|png|jpe?g|npy|npz|h5|hdf5|pkl|pickle|sqlite)(\.gz)?$", re.IGNORECASE
)


def sorted_out(folder: Path, belongs: Callable[[str], bool]) -> tuple[dict[str, Path], list[str]]:
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


def described(names: list[str]) -> Iterator[str]:
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
