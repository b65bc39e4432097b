"""A cohort off the wire: column-oriented JSON and Arrow give the same frame, and nothing else is taken for a table."""

from __future__ import annotations

import io
import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.data import tables
from flip_fl.data.tables import ARROW_STREAM, JSON, read_table

CANARY = "nhs-9434765919"


class Drip(io.RawIOBase):
    """A body that comes in pieces of ``size`` bytes, as a network may give it."""

    def __init__(self, body: bytes, size: int) -> None:
        self._body = io.BytesIO(body)
        self._size = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._body.read(min(self._size, len(buffer)))
        buffer[: len(block)] = block
        return len(block)


def arrow(table: pa.Table) -> bytes:
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return out.getvalue()


def parse(text: str | bytes, size: int = 1 << 20) -> pd.DataFrame:
    body = text.encode() if isinstance(text, str) else text
    return read_table(Drip(body, size), JSON)  # type: ignore[arg-type]


COLUMNS = st.dictionaries(
    st.text(max_size=8),
    st.lists(
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(-(2**53), 2**53),
            st.floats(allow_nan=False, allow_infinity=False),
            st.text(max_size=12),
        ),
        min_size=3,
        max_size=3,
    ),
    max_size=5,
)


@given(columns=COLUMNS, size=st.integers(1, 40), ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_whatever_json_says_is_what_the_frame_says(
    columns: dict[str, list[Any]], size: int, ascii_only: bool, indent: int | None
) -> None:
    """Read in pieces of any size, quotes, brackets and backslashes inside of texts included, it is the whole table."""
    columns.pop("accession_id", None)
    body = json.dumps(columns, ensure_ascii=ascii_only, indent=indent).encode()
    read = read_table(Drip(body, size), JSON)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(read, pd.DataFrame({name: pd.Series(values) for name, values in columns.items()}))


def test_columns_are_parsed_across_block_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value, a name or a bracket that falls on the edge of a block is read as one."""
    columns = {'a"]': ["x]", 'y"', "\\", "\\\\"], "b": [1, 2, 3, 4], "ü": [None, 1.5, -2e-9, 3]}
    body = json.dumps(columns)
    for size in range(1, 30):
        monkeypatch.setattr(tables, "BLOCK_BYTES", size)
        assert parse(body, size).to_dict("list")['a"]'] == columns['a"]']


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "null",
        '"text"',
        "{",
        '{"a"',
        '{"a":',
        '{"a": [1, 2',
        '{"a": [1, 2]',
        '{"a": [1], }',
        '{"a": [1] "b": [2]}',
        '{"a": 1}',
        '{"a": {"b": [1]}}',
        '{"a": [[1]]}',
        '{"a": [1]} {"a": [1]}',
        '{"a": [1,, 2]}',
        '{"a": ["' + CANARY + "]}",
        '{"' + CANARY + '": [' + CANARY + "]}",
        "<html>" + CANARY + "</html>",
        b'{"a": ["\xff\xfe"]}',
    ],
)
def test_what_is_no_table_is_refused_without_a_value_of_it(body: str | bytes) -> None:
    """A page, a cut answer or another shape is one error, whose text quotes nothing of what came."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 (its text is what is looked at)
        parse(body)
    assert CANARY not in str(refused.value)


def test_columns_of_different_lengths_are_refused() -> None:
    """A table whose columns do not fit together has lost something: nothing is filled up in silence."""
    with pytest.raises(ValueError, match="length"):
        parse('{"a": [1, 2, 3], "b": [1]}')


def test_an_empty_result_has_its_columns() -> None:
    """No rows are a table without rows."""
    read = parse('{"accession_id": [], "age": []}')
    assert list(read.columns) == ["accession_id", "age"]
    assert len(read) == 0
    assert len(parse("{}")) == 0


@pytest.mark.parametrize("content_type", [JSON, ARROW_STREAM])
@pytest.mark.parametrize(
    ("given_ids", "wanted"),
    [
        (["0012", "0007"], ["0012", "0007"]),
        ([12, 7], ["12", "7"]),
        ([12, None], ["12", None]),
        (["0012", None], ["0012", None]),
    ],
)
def test_accession_numbers_are_text_however_they_come(
    content_type: str, given_ids: list[Any], wanted: list[Any]
) -> None:
    """Leading zeros stay; a service that types them as numbers still yields text; a missing one stays missing."""
    columns = {"accession_id": given_ids, "age": [1, 2]}
    body = arrow(pa.table(columns)) if content_type == ARROW_STREAM else json.dumps(columns).encode()
    ids = read_table(io.BytesIO(body), content_type)["accession_id"]  # type: ignore[arg-type]
    assert [None if pd.isna(value) else value for value in ids] == wanted


def test_arrow_keeps_types_that_json_has_not() -> None:
    """Dates are dates, small integers stay integers, texts are text, whatever the chunks are."""
    table = pa.table(
        {
            "day": pa.array([0, 1, None, 3, 4], pa.date32()),
            "count": pa.array([1, 2, 3, 4, 5], pa.int16()),
            "name": ["a", "b", None, "d", "e"],
        }
    )
    frame = read_table(Drip(arrow(table), 7), ARROW_STREAM)  # type: ignore[arg-type]
    assert str(frame.dtypes["day"]).startswith("datetime64")
    assert frame["day"][1] == pd.Timestamp("1970-01-02")
    assert str(frame.dtypes["count"]) == "int16"
    assert list(frame["name"].dropna()) == ["a", "b", "d", "e"]


@pytest.mark.parametrize("cut", [0, 5, 100, -9])
def test_a_cut_arrow_stream_is_refused(cut: int) -> None:
    """Half a table is none."""
    body = arrow(pa.table({"a": list(range(100))}))
    with pytest.raises(ValueError, match="no Arrow stream"):
        read_table(io.BytesIO(body[:cut]), ARROW_STREAM)  # type: ignore[arg-type]
