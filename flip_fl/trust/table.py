"""A cohort's CSV as typed columns: whole numbers, numbers, truth values, text. Ids that begin with a zero stay text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.data.cohort import ACCESSION_ID, PERSON_ID, read_cohort
from flip_fl.errors import FlipError
from flip_fl.trust.selection import Kind

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MAX_NAME_BYTES = 63
_WHOLE_NUMBER = r"-?(?:0|[1-9][0-9]{0,17})"


@dataclass(frozen=True)
class Column:
    """One column; ``values`` are Arrow's int64, double, bool or string, with nulls."""

    name: str
    kind: Kind
    values: pa.Array


@dataclass(frozen=True)
class Table:
    """A cohort's columns, all of one length."""

    columns: tuple[Column, ...]

    def __len__(self) -> int:
        return len(self.columns[0].values)

    def get(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


def read_table(path: Path) -> Table:
    """The CSV at ``path``, typed as a development client reads it, but that ids with leading zeros stay text.

    Raises ``FlipError`` E0902 for a file that cannot be read, has no rows, or has names that no table can have.
    """
    frame = read_cohort(path)
    names = [str(name) for name in frame.columns]
    if len({name.lower() for name in names}) < len(names):
        raise _refused(path, "two of its columns have names that differ in capitals only", "rename one of them")
    for name in names:
        if not name.isprintable() or len(name.encode()) > MAX_NAME_BYTES:
            raise _refused(path, "a column's name is longer than 63 bytes or not printable", "rename it")
    if frame.empty:
        raise _refused(path, "it has no rows", "it needs a header and one row a patient or study")
    ids = _ids(path, [name for name in names if name.endswith("_id") and name != ACCESSION_ID])
    columns = tuple(_column(name, ids[name] if name in ids else frame[name]) for name in names)
    if any(_holds_nul(column) for column in columns):
        raise _refused(path, "a text holds a NUL character, which no database takes", "remove it")
    return Table(columns)


def _ids(path: Path, names: list[str]) -> dict[str, pd.Series[str]]:
    """Those id columns that are no plain whole numbers, as the text that stands in the file."""
    import pandas as pd

    if not names:
        return {}
    written = pd.read_csv(path, usecols=names, dtype=str)
    return {name: written[name] for name in names if not written[name].dropna().str.fullmatch(_WHOLE_NUMBER).all()}


def _column(name: str, series: pd.Series[Any]) -> Column:
    import pyarrow as pa
    from pandas.api import types

    if types.is_bool_dtype(series.dtype):
        return Column(name, Kind.BOOLEAN, pa.array(series, pa.bool_(), from_pandas=True))
    if types.is_integer_dtype(series.dtype) and not types.is_unsigned_integer_dtype(series.dtype):
        return Column(name, Kind.INTEGER, pa.array(series, pa.int64(), from_pandas=True))
    if types.is_float_dtype(series.dtype):
        # An id column with gaps is a column of numbers to pandas; its ids are whole all the same.
        if name.endswith("_id") and (series.dropna() % 1 == 0).all():
            return Column(name, Kind.INTEGER, pa.array(series.astype("Int64"), pa.int64(), from_pandas=True))
        return Column(name, Kind.NUMBER, pa.array(series, pa.float64(), from_pandas=True))
    text = series.map(str, na_action="ignore").astype(object)
    return Column(name, Kind.TEXT, pa.array(text, pa.string(), from_pandas=True))


def _holds_nul(column: Column) -> bool:
    import pyarrow.compute as pc

    return column.kind is Kind.TEXT and bool(pc.any(pc.match_substring(column.values, "\0")).as_py())


def person_ids(table: Table) -> Column:
    """Who each row is about: ``person_id``, else ``accession_id``, else the row's number from 1."""
    import pyarrow as pa

    for name in (PERSON_ID, ACCESSION_ID):
        column = table.get(name)
        if column is not None:
            return Column(PERSON_ID, column.kind, column.values)
    return Column(PERSON_ID, Kind.INTEGER, pa.array(range(1, len(table) + 1), pa.int64()))


def _refused(path: Path, problem: str, suggestion: str) -> FlipError:
    return FlipError("E0902", path=path, problem=problem, suggestion=suggestion)
