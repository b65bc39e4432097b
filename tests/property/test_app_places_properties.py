"""Places in a JSON text, for any text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flip_fl.app.places import read_object

values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    value=st.dictionaries(st.text(max_size=5), values, max_size=4),
    indent=st.sampled_from([None, 0, 1, 3]),
    ascii_only=st.booleans(),
)
def test_every_value_is_found_where_it_stands(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    """Reading on from the place of a value gives that value, at every depth and in every layout."""
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    document = read_object(text)
    assert document.value == value
    found = 0

    def walk(part: dict[str, Any], path: tuple[str, ...]) -> None:
        nonlocal found
        for key, expected in part.items():
            found += 1
            offset = document.offsets[(*path, key)]
            assert json.JSONDecoder().raw_decode(text, offset)[0] == expected
            if isinstance(expected, dict):
                walk(expected, (*path, key))

    walk(value, ())
    assert found == len(document.offsets)
