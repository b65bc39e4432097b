"""Named arrays in a file: ``.npz`` without pickle, in their order, under any name."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray[Any, Any]]

# Members have names of their own, because a parameter may be called what numpy's writer calls an argument ("file").
_NAMES = "names"


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write ``arrays`` to ``path``."""
    members = {f"a{number}": np.asarray(array) for number, array in enumerate(arrays.values())}
    with path.open("wb") as out:
        np.savez(out, **members, **{_NAMES: np.array(json.dumps(list(arrays)))})  # type: ignore[arg-type]


def read_arrays(path: Path) -> Arrays:
    """Read what ``write_arrays`` wrote. Raises ``ValueError`` or ``OSError`` for anything else, pickled objects too."""
    with np.load(path, allow_pickle=False) as stored:
        names = json.loads(str(stored[_NAMES]))
        return {name: stored[f"a{number}"] for number, name in enumerate(names)}


def replace_file(temporary: Path, target: Path) -> None:
    """Put ``temporary`` in the place of ``target``: a reader sees the old file or the new one, never half of one."""
    # A file that is not on the disk yet may be empty after a power cut, although its new name is there.
    with temporary.open("rb") as written:
        os.fsync(written.fileno())
    temporary.replace(target)


def replace_arrays(target: Path, arrays: Mapping[str, Any]) -> None:
    """Write ``arrays`` to ``target``, with its folder, in one step."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_suffix(".tmp")
    write_arrays(temporary, arrays)
    replace_file(temporary, target)
