"""Splitting by patient: nobody is ever on both sides."""

from __future__ import annotations

from pathlib import PurePosixPath
from random import Random

import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from flip_fl.data.loading import Glob
from flip_fl.data.split import split_studies
from flip_fl.errors import FlipError

ids = (
    st.integers(-5, 30) | st.text(min_size=1, max_size=4).filter(str.strip) | st.floats(0, 9).map(lambda x: round(x, 1))
)
# Studies of each patient, and rows of each study.
cohorts = st.lists(st.tuples(ids, st.integers(1, 3)), min_size=1, max_size=40)
fractions = st.lists(st.floats(0.01, 1), min_size=1, max_size=5)


def frame(studies: list[tuple[object, int]]) -> pd.DataFrame:
    rows = [(f"study {number}", patient) for number, (patient, times) in enumerate(studies) for _ in range(times)]
    return pd.DataFrame(
        {"accession_id": [name for name, _ in rows], "person_id": pd.Series([who for _, who in rows], dtype=object)}
    )


def shares(parts: list[float]) -> list[float]:
    """Scaled down to at most 1."""
    return [part / max(1.0, sum(parts)) for part in parts]


def same(who: object) -> str:
    """1, 1.0 and "1" are one patient."""
    return f"{who:.0f}" if isinstance(who, float) and who == int(who) else str(who)


@given(cohorts, fractions, st.integers(0, 2**32))
def test_no_patient_is_on_two_sides(studies: list[tuple[object, int]], parts: list[float], seed: int) -> None:
    """Parts share no patient and no study, none is empty, and with shares of 1 nothing is left over."""
    cohort = frame(studies)
    owner = {f"study {number}": same(who) for number, (who, _) in enumerate(studies)}
    if len(set(owner.values())) < len(parts):
        with pytest.raises(FlipError, match="cannot be divided"):
            split_studies(cohort, "person_id", shares(parts), seed)
        return
    groups = split_studies(cohort, "person_id", shares(parts), seed)
    people = [{owner[study] for study in group} for group in groups]
    assert all(groups)
    assert sum(len(each) for each in people) == len(set().union(*people))
    assert sum(len(each) for each in groups) == len(set().union(*groups))
    if sum(parts) >= 1:
        assert set().union(*groups) == set(owner)


@given(cohorts, fractions, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_and_what_came_decide_nothing(
    studies: list[tuple[object, int]], parts: list[float], dice: Random
) -> None:
    """A cohort exported anew, in another order, gives every study the same side."""
    cohort = frame(studies)
    order = list(range(len(cohort)))
    dice.shuffle(order)
    try:
        expected = split_studies(cohort, "person_id", shares(parts), 0)
    except FlipError:
        assume(False)
    assert split_studies(cohort.iloc[order], "person_id", shares(parts), 0) == expected


@given(cohorts, st.integers(0, 100))
def test_a_part_is_split_like_a_cohort(studies: list[tuple[object, int]], seed: int) -> None:
    """Folds within the training part share no patient either, and stay inside it."""
    cohort = frame(studies)
    try:
        train, test = split_studies(cohort, "person_id", (0.7, 0.3), seed)
        inner = split_studies(cohort, "person_id", (0.5, 0.5), seed, train)
    except FlipError:
        assume(False)
    assert set().union(*inner) == train
    assert not set().union(*inner) & test


names = st.text("ab.*?[]!-x", min_size=1, max_size=5).filter(lambda name: name not in (".", ".."))
relative = st.lists(
    st.text("abx.-!]", min_size=1, max_size=4).filter(lambda name: set(name) != {"."}), min_size=1, max_size=4
)


@given(st.lists(names, min_size=1, max_size=3), relative)
def test_patterns_match_as_pathlib_matches(pattern: list[str], path: list[str]) -> None:
    """What `Path.rglob` would have found is what a data set finds, without looking at the disk."""
    assume("**" not in pattern)
    glob, file = "/".join(pattern), "/".join(path)
    try:
        ours = Glob(glob)
    except FlipError:
        assume(False)
    assert ours.matches(file) == PurePosixPath(file).match(glob)
