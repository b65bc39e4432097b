"""Dividing one cohort between simulated sites, by patient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flip_fl.data.cohort import id_column, read_cohort
from flip_fl.data.split import cuts, in_order, patient_id
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    import pandas as pd


def partition(cohort: pd.DataFrame, shares: Mapping[str, float], seed: int = 0) -> dict[str, pd.DataFrame]:
    """One part of ``cohort`` a slot: patients ordered by sha256(seed, id), cut by share in the order of ``shares``.

    All rows of a patient go to one site and keep their order; every site has a patient. A patient is ``person_id``,
    else ``accession_id``, else a row. Shares need not add up to 1. Raises ``ValueError`` for shares that are not
    positive, and when there are fewer patients than sites.
    """
    if not shares or not all(math.isfinite(share) and share > 0 for share in shares.values()):
        raise ValueError("every share must be a positive number")
    column = id_column(cohort)
    ids = [patient_id(value) for value in (cohort[column] if column is not None else range(len(cohort)))]
    patients = in_order(ids, seed)
    if len(patients) < len(shares):
        raise ValueError(f"{len(patients)} patients cannot be divided between {len(shares)} sites")
    owner: dict[str, str] = {}
    for slot, (start, end) in zip(shares, itertools.pairwise(cuts(len(patients), list(shares.values()))), strict=True):
        owner.update(dict.fromkeys(patients[start:end], slot))
    return {slot: cohort[[owner[name] == slot for name in ids]].reset_index(drop=True) for slot in shares}


def partition_csv(
    path: Path, targets: Mapping[str, Path], shares: Mapping[str, float] | None = None, seed: int = 0
) -> dict[str, int]:
    """Write each slot's part of the CSV at ``path`` to its target (folders are made); how many rows each has.

    Equal shares by default. Raises ``FlipError`` E0902 for a file that cannot be read or has too few patients.
    """
    cohort = read_cohort(path)
    try:
        parts = partition(cohort, shares if shares is not None else dict.fromkeys(targets, 1.0), seed)
    except ValueError as error:
        raise FlipError(
            "E0902", path=path, problem=str(error), suggestion="use fewer sites, or a larger cohort"
        ) from None
    for slot, part in parts.items():
        targets[slot].parent.mkdir(parents=True, exist_ok=True)
        part.to_csv(targets[slot], index=False)
    return {slot: len(part) for slot, part in parts.items()}
