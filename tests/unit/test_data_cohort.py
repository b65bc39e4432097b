"""Reading a cohort and dividing a CSV between simulated sites."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from flip_fl.data.cohort import id_column, read_cohort
from flip_fl.data.partition import partition, partition_csv
from flip_fl.errors import FlipError


def test_accession_numbers_are_text(tmp_path: Path) -> None:
    """Leading zeros survive, and an id that reads NA is an id."""
    path = tmp_path / "cohort.csv"
    path.write_text("accession_id,age\n0012,50\nNA,\nnull,7\n", encoding="utf-8")
    cohort = read_cohort(path)
    assert list(cohort["accession_id"]) == ["0012", "NA", "null"]
    assert cohort["age"].isna().sum() == 1


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no such file"),
        (b"", "it is empty"),
        (b"a,b\n1,2\nZorkmid,2,3,4\n", "its rows do not all have as many values as the header"),
        (b"a\n\xff\xfe\xe4\n", "it is not UTF-8 text"),
    ],
)
def test_a_bad_csv_is_named_without_its_values(content: bytes | None, problem: str, tmp_path: Path) -> None:
    """The parser's own words quote the row; ours do not."""
    path = tmp_path / "cohort.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(FlipError) as caught:
        read_cohort(path)
    assert caught.value.code == "E0902"
    assert caught.value.facts["problem"] == problem
    assert "Zorkmid" not in caught.value.text()
    assert caught.value.__cause__ is None


def test_patients_are_told_apart_by_the_first_id_there_is() -> None:
    """person_id, else accession_id, else each row by itself."""
    assert id_column(pd.DataFrame({"accession_id": [], "person_id": []})) == "person_id"
    assert id_column(pd.DataFrame({"accession_id": []})) == "accession_id"
    assert id_column(pd.DataFrame({"age": []})) is None
    parts = partition(pd.DataFrame({"age": range(10)}), {"Trust_1": 1, "Trust_2": 1})
    assert sorted(len(part) for part in parts.values()) == [5, 5]


def test_shares_are_kept(tmp_path: Path) -> None:
    """Three quarters and a quarter of a hundred patients."""
    cohort = pd.DataFrame({"person_id": range(100)})
    parts = partition(cohort, {"Trust_1": 3, "Trust_2": 1})
    assert [len(part) for part in parts.values()] == [75, 25]


def test_the_division_is_pinned() -> None:
    """The same cohort, seed and shares give the same sites for ever; another seed gives others."""
    cohort = pd.DataFrame({"person_id": range(10)})
    first = list(partition(cohort, {"Trust_1": 1, "Trust_2": 1})["Trust_1"]["person_id"])
    assert first == [0, 2, 3, 7, 8]
    assert list(partition(cohort, {"Trust_1": 1, "Trust_2": 1}, seed=1)["Trust_1"]["person_id"]) != first


def test_a_csv_is_divided_into_files(tmp_path: Path) -> None:
    """Each site's file has the header, its rows, and accession numbers as they were."""
    path = tmp_path / "cohort.csv"
    rows = "".join(f"{number:04d},{number % 7}\n" for number in range(40))
    path.write_text(f"accession_id,age\n{rows}", encoding="utf-8")
    targets = {slot: tmp_path / "sites" / slot / "cohort.csv" for slot in ("Trust_1", "Trust_2")}
    counts = partition_csv(path, targets)
    assert sum(counts.values()) == 40
    lines = [line for target in targets.values() for line in target.read_text(encoding="utf-8").splitlines()[1:]]
    assert sorted(lines) == sorted(rows.splitlines())
    with pytest.raises(FlipError, match="40 patients cannot be divided between 50 sites"):
        partition_csv(path, {f"Trust_{n}": tmp_path / f"{n}.csv" for n in range(50)})


@pytest.mark.parametrize("share", [0, -1, float("nan"), float("inf")])
def test_shares_must_be_positive_numbers(share: float) -> None:
    """A site without patients would wait for ever for something to train on."""
    with pytest.raises(ValueError, match="positive number"):
        partition(pd.DataFrame({"a": range(9)}), {"Trust_1": 1.0, "Trust_2": share})
