"""A bundle's model in another format, for those who do not have its code."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flip_fl.app import weights
from flip_fl.errors import FlipError
from flip_fl.results.contents import GLOBAL_MODEL
from flip_fl.results.verify import unpacked


@dataclass(frozen=True)
class Exported:
    """How the file was compared with the original: on ``inputs`` in batches of these sizes; absolute differences."""

    inputs: int
    batches: tuple[int, ...]
    max_difference: float
    tolerance: float


def export(bundle: Path, target: Path, *, model: str = GLOBAL_MODEL, shape: Sequence[int] | None = None) -> Exported:
    """Write ``model`` of ``bundle`` as TorchScript to ``target``, which appears only once it was compared.

    ``shape``: of one input without its batch; else models.py has ``example_input()``. Raises ``FlipError`` E0702 when
    the bundle cannot be used, E0205 when the model does not load, E0707 when it cannot be exported or is not the same.
    """
    with unpacked(bundle) as (folder, manifest):
        item = next((item for item in manifest.contents.models if item.name == model), None)
        if item is None or model not in manifest.files:
            known = [item.name for item in manifest.contents.models if item.name in manifest.files]
            raise FlipError(
                "E0702",
                bundle=bundle.name,
                problem=f"it has no model {model}",
                suggestion=f"it has {' and '.join(known)}" if known else "export the bundle of a job that trains",
            )
        made = target.resolve().with_name(f".{target.name}.{os.getpid()}.part")
        made.parent.mkdir(parents=True, exist_ok=True)
        try:
            facts = weights.convert(folder, folder / model, made, shape=shape, stage=item.stage)
            made.replace(target)
        finally:
            made.unlink(missing_ok=True)
    return Exported(facts["inputs"], tuple(facts["batches"]), facts["max_difference"], facts["tolerance"])
