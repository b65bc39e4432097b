"""Splitting a cohort's studies by patient."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from flip_fl.data.partition import partition
from flip_fl.data.split import accessions, cuts, in_order, patient_id, split_studies
from flip_fl.errors import FlipError
from tests.support.studies import CANARY


def cohort_of(patients: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"accession_id": [f"{n:04d}" for n in range(len(patients))], "person_id": patients})


def refused(cohort: pd.DataFrame, by: str = "person_id", fractions: object = (0.7, 0.3)) -> FlipError:
    with pytest.raises(FlipError) as caught:
        split_studies(cohort, by, fractions, 0)  # type: ignore[arg-type]
    assert CANARY not in caught.value.text()
    return caught.value


def test_the_split_is_pinned() -> None:
    """The same ids and seed give the same parts for ever; another seed gives others."""
    cohort = cohort_of(list(range(10)))
    train, val, test = split_studies(cohort, "person_id", (0.6, 0.2, 0.2), 0)
    assert (sorted(train), sorted(val), sorted(test)) == (
        ["0000", "0002", "0003", "0006", "0007", "0008"],
        ["0004", "0009"],
        ["0001", "0005"],
    )
    assert split_studies(cohort, "person_id", (0.6, 0.2, 0.2), 1)[0] != train


def test_the_split_and_the_simulators_division_are_one_order() -> None:
    """Two orders of patients would be two things to trust."""
    cohort = cohort_of(list(range(40)))
    first, second = split_studies(cohort, "person_id", (0.25, 0.75), 3)
    sites = partition(cohort, {"Trust_1": 1, "Trust_2": 3}, seed=3)
    assert (set(sites["Trust_1"]["accession_id"]), set(sites["Trust_2"]["accession_id"])) == (first, second)


def test_another_process_splits_alike() -> None:
    """Python's own hashes differ from process to process; a patient must not change sides between rounds."""
    script = (
        "import pandas as pd; from flip_fl.data.split import split_studies; numbers = range(50);"
        "ids = {'accession_id': [f'{n:04d}' for n in numbers], 'person_id': [n // 2 for n in numbers]};"
        "frame = pd.DataFrame(ids);"
        "print(*sorted(split_studies(frame, 'person_id', (0.5, 0.5), 7)[0]))"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
            cwd=sys.path[0] or None,
        ).stdout.split()
        for seed in (1, 2)
    ]
    here = sorted(split_studies(cohort_of([n // 2 for n in range(50)]), "person_id", (0.5, 0.5), 7)[0])
    assert runs == [here, here]


def test_a_patient_is_the_same_as_integer_float_and_text() -> None:
    """One missing value elsewhere turns a column of integers into floats: nobody may change sides by that."""
    assert [patient_id(value) for value in (7, 7.0, np.float64(7), "7", 7.5, "007")] == [
        "7",
        "7",
        "7",
        "7",
        "7.5",
        "007",
    ]
    whole = split_studies(cohort_of(list(range(20))), "person_id", (0.5, 0.5), 0)
    floats = split_studies(cohort_of([float(n) for n in range(20)]), "person_id", (0.5, 0.5), 0)
    texts = split_studies(cohort_of([str(n) for n in range(20)]), "person_id", (0.5, 0.5), 0)
    assert whole == floats == texts


def test_what_the_fractions_leave_over_is_in_no_part() -> None:
    """A tenth for a quick try is a tenth."""
    (part,) = split_studies(cohort_of(list(range(100))), "person_id", (0.1,), 0)
    assert len(part) == 10
    whole = split_studies(cohort_of(list(range(100))), "person_id", (0.7, 0.2, 0.1), 0)
    assert [len(each) for each in whole] == [70, 20, 10]


def test_every_part_has_a_patient_or_there_is_no_split() -> None:
    """An empty test set would score nothing; the error says how many patients there are."""
    assert [len(part) for part in split_studies(cohort_of([1, 2, 3]), "person_id", (0.98, 0.01, 0.01), 0)] == [1, 1, 1]
    error = refused(cohort_of([1, 1, 1]))
    assert error.code == "E0926"
    assert error.what.endswith("1 patients cannot be divided into 2 parts")


def test_rows_without_an_id_are_refused_with_their_number() -> None:
    """Whose they are nobody knows: they could belong to a patient of the other side."""
    for missing in (None, float("nan"), "", "  "):
        error = refused(cohort_of([CANARY, "b", missing, "d"]))
        assert "1 of 4 rows have no value in it" in error.what
        assert error.fix == "leave those rows out: cohort[cohort['person_id'].notna()]"


def test_a_study_of_two_patients_is_refused_with_its_number() -> None:
    """It would be on both sides."""
    cohort = pd.DataFrame({"accession_id": [CANARY, CANARY, "b"], "person_id": [1, 2, 3]})
    error = refused(cohort)
    assert "1 studies belong to more than one of its values" in error.what


def test_a_study_with_several_rows_of_one_patient_is_one_study() -> None:
    """A cohort often has a row a measurement."""
    cohort = pd.DataFrame({"accession_id": ["a", "a", "b", "c"], "person_id": [1, 1, 1, 2]})
    parts = split_studies(cohort, "person_id", (0.5, 0.5), 0)
    assert sorted(map(sorted, parts)) == [["a", "b"], ["c"]]


def test_an_unknown_column_is_named() -> None:
    """The column's name is the researcher's own word."""
    error = refused(cohort_of([1, 2]), by="subject")
    assert (error.code, error.facts["column"]) == ("E0923", "subject")


@pytest.mark.parametrize("fractions", [(), (0.5, 0.6), (0.5, 0), (0.5, -0.1), (float("nan"),), (float("inf"),), ("a",)])
def test_fractions_must_be_shares(fractions: object) -> None:
    """More than everything, nothing, and no number are mistakes."""
    assert refused(cohort_of([1, 2, 3]), fractions=fractions).code == "E0926"


def test_rows_without_an_accession_number_take_no_part() -> None:
    """They have no study to split; an index that is no plain count changes nothing."""
    cohort = cohort_of([1, 2, 3, None, 4])
    cohort["accession_id"] = ["a", "b", None, " ", "c"]
    cohort.index = pd.Index([5, 5, 5, 1, 1])
    assert list(accessions(cohort)) == ["a", "b", "c"]
    assert set().union(*split_studies(cohort, "person_id", (0.5, 0.5), 0)) == {"a", "b", "c"}
    assert set().union(*split_studies(cohort, "accession_id", (0.5, 0.5), 0)) == {"a", "b", "c"}


def test_cuts_and_order_have_no_gaps() -> None:
    """The pieces that the simulator shares."""
    assert cuts(10, [1, 1]) == [0, 5, 10]
    assert cuts(10, [0.5, 0.2], 1.0) == [0, 5, 7]
    assert in_order(["b", "a", "b"], 0) == in_order(["a", "b"], 0)
