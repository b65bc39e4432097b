"""Dividing a cohort: every patient at exactly one site, whatever the table looks like."""

from __future__ import annotations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.data.partition import partition

people = st.lists(st.integers(0, 30) | st.text(max_size=4), min_size=1, max_size=60)
shares = st.lists(st.floats(0.01, 10), min_size=1, max_size=5)


@given(people, shares, st.integers(0, 2**32 - 1))
def test_every_row_is_at_one_site_and_every_patient_too(ids: list[object], parts: list[float], seed: int) -> None:
    """Nothing is lost, nothing doubled, no patient at two sites, no site empty, rows in their order."""
    cohort = pd.DataFrame({"person_id": pd.Series(ids, dtype=object), "row": range(len(ids))})
    wanted = {f"Trust_{n}": share for n, share in enumerate(parts)}
    patients = {str(value) for value in ids}
    if len(patients) < len(parts):
        with pytest.raises(ValueError, match="cannot be divided"):
            partition(cohort, wanted, seed)
        return
    divided = partition(cohort, wanted, seed)
    assert list(divided) == list(wanted)
    assert sorted(row for part in divided.values() for row in part["row"]) == list(range(len(ids)))
    owners = [{str(value) for value in part["person_id"]} for part in divided.values()]
    assert sum(map(len, owners)) == len(patients)
    assert all(owners)
    assert all(list(part["row"]) == sorted(part["row"]) for part in divided.values())


@given(people, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_decides_nothing(ids: list[object], random: object) -> None:
    """A re-exported cohort gives every site the same patients."""
    if len({str(value) for value in ids}) < 2:
        return
    shuffled = list(ids)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    wanted = {"Trust_1": 1.0, "Trust_2": 2.0}

    def patients(values: list[object]) -> list[set[str]]:
        divided = partition(pd.DataFrame({"person_id": pd.Series(values, dtype=object)}), wanted)
        return [{str(value) for value in part["person_id"]} for part in divided.values()]

    assert patients(ids) == patients(shuffled)
