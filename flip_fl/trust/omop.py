"""A cohort as tables of the OMOP common data model, and once more in its own shape.

``person`` has a row a person, ``measurement`` and ``observation`` a row for each value of a numeric and of any other
column (``…_source_value`` says which), ``image_occurrence`` a row a study. ``cohort`` is the CSV as it is. Concepts are
0, OMOP's "no matching concept", but for the two sexes it has. Nothing in a CSV says when anything was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flip_fl.data.cohort import ACCESSION_ID, PERSON_ID
from flip_fl.trust.selection import Kind
from flip_fl.trust.table import Column, Table, person_ids

if TYPE_CHECKING:
    import pyarrow as pa

_SEX = ("gender", "sex")
_CONCEPTS = {"m": 8507, "male": 8507, "f": 8532, "female": 8532}
_NOT_VALUES = (PERSON_ID, ACCESSION_ID)


@dataclass(frozen=True)
class Relation:
    """A table to make: its columns with their kinds, and what goes into it, part by part."""

    name: str
    columns: tuple[tuple[str, Kind], ...]
    parts: Iterator[pa.Table]


def relations(table: Table, *, long_form: bool) -> Iterator[Relation]:
    """The tables for a cohort. ``long_form`` false leaves ``measurement`` and ``observation`` empty: they have as many
    rows as the cohort has values.
    """
    people = person_ids(table)
    yield Relation("cohort", tuple((column.name, column.kind) for column in table.columns), _as_it_is(table))
    yield Relation("person", _person_columns(people), _persons(table, people))
    numeric = [c for c in table.columns if c.kind in (Kind.INTEGER, Kind.NUMBER) and c.name not in _NOT_VALUES]
    other = [c for c in table.columns if c.kind in (Kind.BOOLEAN, Kind.TEXT) and c.name not in _NOT_VALUES]
    for name, columns, kind in (("measurement", numeric, Kind.NUMBER), ("observation", other, Kind.TEXT)):
        yield Relation(name, _value_columns(name, people, kind), _values(columns if long_form else [], people, kind))
    yield Relation("image_occurrence", _image_columns(people), _images(table, people))


def _as_it_is(table: Table) -> Iterator[pa.Table]:
    import pyarrow as pa

    yield pa.table([column.values for column in table.columns], names=[column.name for column in table.columns])


def _person_columns(people: Column) -> tuple[tuple[str, Kind], ...]:
    return (
        (PERSON_ID, people.kind),
        ("gender_concept_id", Kind.INTEGER),
        ("year_of_birth", Kind.INTEGER),
        ("race_concept_id", Kind.INTEGER),
        ("ethnicity_concept_id", Kind.INTEGER),
        ("person_source_value", Kind.TEXT),
        ("gender_source_value", Kind.TEXT),
    )


def _persons(table: Table, people: Column) -> Iterator[pa.Table]:
    import pyarrow as pa

    sex = next((c for c in table.columns if c.name.lower() in _SEX), None)
    born = next((c for c in table.columns if c.name.lower() == "year_of_birth" and c.kind is Kind.INTEGER), None)
    first = _first_rows(people)
    ids = people.values.take(first)
    sexes = pa.nulls(len(first), pa.string()) if sex is None else sex.values.take(first).cast(pa.string())
    concepts = [_CONCEPTS.get(str(value).strip().lower(), 0) for value in sexes.to_pylist()]
    nothing = pa.array([0] * len(first), pa.int64())
    years = pa.nulls(len(first), pa.int64()) if born is None else born.values.take(first)
    columns = [ids, pa.array(concepts, pa.int64()), years, nothing, nothing, ids.cast(pa.string()), sexes]
    yield pa.table(columns, names=[name for name, _ in _person_columns(people)])


def _first_rows(people: Column) -> pa.Array:
    """The rows in which each person appears for the first time, in order."""
    import pyarrow as pa

    rows = pa.table({"id": people.values, "row": pa.array(range(len(people.values)), pa.int64())})
    first = rows.group_by("id").aggregate([("row", "min")]).filter(pa.compute.field("id").is_valid())
    return first.sort_by("row_min")["row_min"].combine_chunks()


def _value_columns(name: str, people: Column, kind: Kind) -> tuple[tuple[str, Kind], ...]:
    value = "value_as_number" if kind is Kind.NUMBER else "value_as_string"
    return (
        (f"{name}_id", Kind.INTEGER),
        (PERSON_ID, people.kind),
        (f"{name}_concept_id", Kind.INTEGER),
        (f"{name}_date", Kind.TEXT),
        (value, kind),
        (f"{name}_source_value", Kind.TEXT),
    )


def _values(columns: list[Column], people: Column, kind: Kind) -> Iterator[pa.Table]:
    """A part for each column: one row for each value that is there."""
    import pyarrow as pa

    number = 0
    for column in columns:
        there = column.values.is_valid()
        values = column.values.filter(there).cast(pa.float64() if kind is Kind.NUMBER else pa.string(), safe=False)
        count = len(values)
        ids = pa.array(range(number + 1, number + count + 1), pa.int64())
        number += count
        yield pa.table(
            [
                ids,
                people.values.filter(there),
                pa.array([0] * count, pa.int64()),
                pa.nulls(count, pa.string()),
                values,
                pa.array([column.name] * count, pa.string()),
            ],
            names=["id", "person", "concept", "date", "value", "source"],
        )


def _image_columns(people: Column) -> tuple[tuple[str, Kind], ...]:
    return (
        ("image_occurrence_id", Kind.INTEGER),
        (PERSON_ID, people.kind),
        (ACCESSION_ID, Kind.TEXT),
        ("image_occurrence_date", Kind.TEXT),
    )


def _images(table: Table, people: Column) -> Iterator[pa.Table]:
    import pyarrow as pa

    studies = table.get(ACCESSION_ID)
    if studies is None:
        return
    first = _first_rows(studies)
    yield pa.table(
        [
            pa.array(range(1, len(first) + 1), pa.int64()),
            people.values.take(first),
            studies.values.take(first).cast(pa.string()),
            pa.nulls(len(first), pa.string()),
        ],
        names=["id", "person", "accession", "date"],
    )
