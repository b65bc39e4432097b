"""Who belongs to which part: patients in an order that only a seed and their ids decide, cut by share."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    import pandas as pd

_ROUNDING = 1e-9


def patient_id(value: object) -> str:
    """An id as text: a whole number is the same patient whether its column came as integers or as floats."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def in_order(ids: Iterable[str], seed: int) -> list[str]:
    """Each id once, by sha256(seed, id): the same on every machine, in every process, whatever the order given."""
    return sorted(set(ids), key=lambda name: hashlib.sha256(f"{seed}|{name}".encode()).digest())


def cuts(count: int, shares: Sequence[float], total: float | None = None) -> list[int]:
    """Where to cut ``count`` (at least one a share) so that every share has at least one.

    One number more than there are shares, from 0 on. ``total`` is what all of ``count`` is worth: by default the sum
    of the shares, so that nothing is left over.
    """
    whole = math.fsum(shares) if total is None else total
    places = [0]
    for number, cumulative in enumerate(itertools.accumulate(shares), start=1):
        wanted = round(count * cumulative / whole)
        places.append(min(max(wanted, places[-1] + 1), count - (len(shares) - number)))
    return places


def split_studies(
    cohort: pd.DataFrame, by: str, fractions: Sequence[float], seed: int, among: Collection[str] | None = None
) -> tuple[frozenset[str], ...]:
    """The accession ids of each part, all studies of one patient (one value of ``by``) in the same part.

    Every row of the cohort counts, whether its study came or not: a study that cannot be fetched in some round moves
    nobody to another side. ``among`` restricts it to some accession ids. What ``fractions`` leave over is in no part.

    Raises ``FlipError`` E0923 without that column; E0926 for fractions that are not positive or add up to more than 1,
    for rows without a value of ``by`` (they could belong to anybody), for a study that belongs to two patients, and
    for fewer patients than parts (each part gets at least one).
    """
    _check_fractions(by, fractions)
    owners = _owners(cohort, by, among)
    patients = in_order(owners.values(), seed)
    if len(patients) < len(fractions):
        raise _refused(
            by,
            f"{len(patients):,} patients cannot be divided into {len(fractions)} parts",
            "ask for fewer parts, or for a larger cohort",
        )
    whole = math.fsum(fractions)
    places = cuts(len(patients), fractions, whole if abs(whole - 1) <= _ROUNDING else 1.0)
    part = {
        name: number for number, (start, end) in enumerate(itertools.pairwise(places)) for name in patients[start:end]
    }
    return tuple(
        frozenset(study for study, patient in owners.items() if part.get(patient) == number)
        for number in range(len(fractions))
    )


def accessions(cohort: pd.DataFrame) -> pd.Series[Any]:
    """The accession ids of the cohort's rows as text; rows without one are left out, the others keep their index."""
    column = cohort[ACCESSION_ID]
    named = column[column.notna()].astype(str)
    return named[named.str.strip() != ""]


def _owners(cohort: pd.DataFrame, by: str, among: Collection[str] | None) -> dict[str, str]:
    """The patient of each study."""
    if by not in cohort.columns:
        raise FlipError(
            "E0923",
            column=by,
            problem="there is no such column",
            suggestion=f"add it to the query, or split by '{ACCESSION_ID}' where a patient has one study only",
        )
    rows = cohort[[ACCESSION_ID, by]] if by != ACCESSION_ID else cohort[[by]]
    rows = rows.reset_index(drop=True)
    named = accessions(rows)
    if among is not None:
        named = named[named.isin(among)]
    column = rows.loc[named.index, by]
    missing = int((column.isna() | (column.astype(str).str.strip() == "")).sum())
    if missing:
        raise _refused(
            by,
            f"{missing:,} of {len(column):,} rows have no value in it",
            f"leave those rows out: cohort[cohort['{by}'].notna()]",
        )
    owners: dict[str, str] = {}
    torn: set[str] = set()
    for study, value in zip(named, column, strict=True):
        patient = patient_id(value)
        if owners.setdefault(study, patient) != patient:
            torn.add(study)
    if torn:
        raise _refused(
            by, f"{len(torn):,} studies belong to more than one of its values", "correct the cohort, or its query"
        )
    return owners


def _check_fractions(by: str, fractions: Sequence[float]) -> None:
    plain = all(isinstance(each, int | float) and math.isfinite(each) and each > 0 for each in fractions)
    if not fractions or not plain or math.fsum(fractions) > 1 + _ROUNDING:
        raise _refused(
            by,
            "fractions must be positive numbers that add up to at most 1",
            "give a share for each part, for instance fractions=(0.7, 0.15, 0.15)",
        )


def _refused(by: str, problem: str, suggestion: str) -> FlipError:
    return FlipError("E0926", by=by, problem=problem, suggestion=suggestion)
