"""What the cohort says of each study: the target, and the columns that an item takes along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flip_fl.data.split import accessions
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    import pandas as pd

    Column = pd.Series[Any]


@dataclass(frozen=True)
class Facts:
    """Targets and columns by accession id; ``studies`` are all of the cohort, in its order."""

    studies: tuple[str, ...]
    targets: Mapping[str, float | int]
    columns: Mapping[str, tuple[Any, ...]]


NO_FACTS = Facts((), {}, {})


def facts(cohort: pd.DataFrame, target: str | None, columns: Sequence[str]) -> Facts:
    """The facts of a cohort; of a study with several rows, where these agree.

    A target is an int where the column's type is integer or boolean, else a float. Of the other columns numbers stay
    numbers (missing: NaN), dates are ISO text, and everything else is text (missing: empty).

    Raises ``FlipError`` E0923 for a column that is not there or in which rows of one study differ, and for a target
    that is no number or is missing for some study.
    """
    for column in (*columns, *([] if target is None else [target])):
        if column not in cohort.columns:
            raise _refused(column, "there is no such column", "add it to the query, or correct its name")
    rows = cohort.reset_index(drop=True)
    named = accessions(rows)
    first = named[~named.duplicated()]
    if len(first) < len(named):
        for column in dict.fromkeys((*columns, *([] if target is None else [target]))):
            _check_agreement(rows.loc[named.index, column], named, len(first))
    studies = tuple(first)
    targets = {} if target is None else dict(zip(studies, _numbers(rows.loc[first.index, target]), strict=True))
    values = [_plain(rows.loc[first.index, column]) for column in columns]
    return Facts(studies, targets, dict(zip(studies, zip(*values, strict=True), strict=True)) if values else {})


def _check_agreement(column: Column, named: Column, studies: int) -> None:
    values = column.map(str, na_action="ignore") if column.dtype == object else column
    differing = int((values.groupby(named).nunique(dropna=False) > 1).sum())
    if differing:
        raise _refused(
            str(column.name),
            f"{differing:,} of {studies:,} studies have rows that differ in it",
            "leave one row for each study, or a column that is the same in all of them",
        )


def _numbers(column: Column) -> list[float] | list[int]:
    from pandas.api.types import is_bool_dtype, is_integer_dtype, is_numeric_dtype

    missing = int(column.isna().sum())
    if missing:
        raise _refused(
            str(column.name),
            f"{missing:,} of {len(column):,} studies have no value in it",
            f"leave those rows out: cohort[cohort['{column.name}'].notna()]",
        )
    if is_bool_dtype(column.dtype) or is_integer_dtype(column.dtype):
        return [int(value) for value in column]
    if is_numeric_dtype(column.dtype) or _all_numbers(column):
        return [float(value) for value in column]
    raise _refused(
        str(column.name),
        "a target is a number, and it holds something else",
        "make it one, the same way at every site: cohort['y'] = (cohort['finding'] == 'malignant').astype(int)",
    )


def _plain(column: Column) -> list[Any]:
    """Values that torch's default collate takes."""
    from pandas.api.types import is_datetime64_any_dtype, is_numeric_dtype

    missing = column.isna().tolist()
    if is_numeric_dtype(column.dtype) and not any(missing):
        plain: list[Any] = column.tolist()
        return plain
    if is_numeric_dtype(column.dtype) or (_all_numbers(column.dropna()) and not all(missing)):
        return [math.nan if absent else float(value) for value, absent in zip(column, missing, strict=True)]
    dates = is_datetime64_any_dtype(column.dtype)
    return [
        "" if absent else value.isoformat() if dates else str(value)
        for value, absent in zip(column, missing, strict=True)
    ]


def _all_numbers(column: Column) -> bool:
    return column.dtype == object and all(isinstance(value, bool | int | float | Decimal) for value in column)


def _refused(column: str, problem: str, suggestion: str) -> FlipError:
    return FlipError("E0923", column=column, problem=problem, suggestion=suggestion)
