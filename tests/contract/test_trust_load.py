"""Filling a trust: what a CSV and a folder of studies become, and that a second load takes their place."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from flip_fl.errors import FlipError
from flip_fl.trust.databases import open_database
from flip_fl.trust.load import approve, load_cohort, load_images, register_project
from flip_fl.trust.studies import LoadedImages
from tests.support.databases import PostgresServer
from tests.support.trust import CANARY_ACCESSION, CANARY_NOTE, write_cohort, write_study


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        return server.empty_database()
    return f"sqlite:///{tmp_path / 'deep' / 'trust.sqlite'}"


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What the database holds, asked past the services."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("ATTACH DATABASE ? AS omop", (str(path.with_name("trust.omop.sqlite")),))
            return connection.execute(statement).fetchall()
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(statement))]
    finally:
        engine.dispose()


def test_a_cohort_becomes_omop_tables_and_a_table_of_its_own_shape(url: str, tmp_path: Path) -> None:
    """Persons once, a row for each value that is there, images by accession number; the cohort as it is."""
    csv = write_cohort(
        tmp_path,
        "person_id,accession_id,sex,year_of_birth,age,weight,smoker,note\n"
        "1,0010,M,1960,64,70.5,True,first\n1,0011,M,1960,65,,True,\n2,0020,female,1970,54,60,False,\n",
    )
    loaded = load_cohort(url, csv)
    assert (loaded.rows, loaded.columns, loaded.persons) == (3, 8, 2)
    assert query(url, "SELECT * FROM omop.cohort") == [
        (1, "0010", "M", 1960, 64, 70.5, True, "first"),
        (1, "0011", "M", 1960, 65, None, True, None),
        (2, "0020", "female", 1970, 54, 60.0, False, None),
    ]
    assert query(url, "SELECT * FROM omop.person") == [
        (1, 8507, 1960, 0, 0, "1", "M"),
        (2, 8532, 1970, 0, 0, "2", "female"),
    ]
    values = "SELECT person_id, value_as_number FROM omop.measurement WHERE measurement_source_value = '{}'"
    assert query(url, values.format("weight")) == [(1, 70.5), (2, 60.0)]
    assert query(url, values.format("age")) == [(1, 64.0), (1, 65.0), (2, 54.0)]
    texts = "SELECT person_id, value_as_string FROM omop.observation WHERE observation_source_value = '{}'"
    assert query(url, texts.format("note")) == [(1, "first")]
    assert query(url, texts.format("smoker")) == [(1, "true"), (1, "true"), (2, "false")]
    assert query(url, "SELECT person_id, accession_id FROM omop.image_occurrence") == [
        (1, "0010"),
        (1, "0011"),
        (2, "0020"),
    ]
    ids = query(url, "SELECT measurement_id FROM omop.measurement")
    assert sorted(ids) == [(number,) for number in range(1, len(ids) + 1)]


@pytest.mark.parametrize(
    ("csv", "rows"),
    [
        # ids that begin with a zero, or are no numbers, are text; others are numbers, also with gaps
        ("person_id,site_id\n007,1\n8,\n", [("007", 1), ("8", None)]),
        ("person_id,site_id\nP1,1\nP2,2\n", [("P1", 1), ("P2", 2)]),
        ("person_id,site_id\n1.0,12345678901234567890\n2,1\n", [("1.0", "12345678901234567890"), ("2", "1")]),
        ("accession_id,a\n007,1\nNA,2\n", [("007", 1), ("NA", 2)]),
        ("accession_id,a\n7,1.5\n8,2\n", [("7", 1.5), ("8", 2.0)]),
        ("a,b\n1,x\n,\n", [(1.0, "x"), (None, None)]),
        ("a,b\ninf,2024-02-29\n-1e-300,2024-02-30\n", [(float("inf"), "2024-02-29"), (-1e-300, "2024-02-30")]),
        ('a,b\n9007199254740993,"x,""y"""\n-9223372036854775808,\'\n', None),
    ],
)
def test_types_are_kept(url: str, tmp_path: Path, csv: str, rows: list[tuple[Any, ...]] | None) -> None:
    """Text stays text, leading zeros are part of it, and large whole numbers lose no digit."""
    load_cohort(url, write_cohort(tmp_path, csv))
    expected = rows or [(9007199254740993, 'x,"y"'), (-9223372036854775808, "'")]
    got = query(url, "SELECT * FROM omop.cohort")
    assert got == expected
    assert [[type(value) for value in row] for row in got] == [[type(value) for value in row] for row in expected]


def test_without_ids_each_row_is_a_person(url: str, tmp_path: Path) -> None:
    """A table of values alone is a cohort, too."""
    loaded = load_cohort(url, write_cohort(tmp_path, "a\n5\n6\n"))
    assert loaded.persons == 2
    assert query(url, "SELECT person_id, value_as_number FROM omop.measurement") == [(1, 5.0), (2, 6.0)]
    assert query(url, "SELECT count(*) FROM omop.image_occurrence") == [(0,)]


def test_the_long_form_can_be_left_out(url: str, tmp_path: Path) -> None:
    """A large cohort has as many values as rows times columns; the tables are there and empty."""
    load_cohort(url, write_cohort(tmp_path), long_form=False)
    for table, rows in (("cohort", 20), ("person", 20), ("measurement", 0), ("observation", 0)):
        assert query(url, f"SELECT count(*) FROM omop.{table}") == [(rows,)]


def test_loading_again_takes_the_place_of_what_was_there(url: str, tmp_path: Path) -> None:
    """Columns and rows of the first load are gone; a load that fails leaves everything as it was."""
    load_cohort(url, write_cohort(tmp_path))
    load_cohort(url, write_cohort(tmp_path, "person_id,weight\n1,2\n"))
    assert query(url, "SELECT * FROM omop.cohort") == [(1, 2)]
    assert query(url, "SELECT count(*) FROM omop.image_occurrence") == [(0,)]
    before = query(url, "SELECT * FROM omop.measurement")
    with pytest.raises(FlipError) as caught:
        load_cohort(url, write_cohort(tmp_path, "person_id,note\n1,canary\0canary\n"))
    assert caught.value.code == "E0902"
    assert "canary" not in caught.value.text()
    assert query(url, "SELECT * FROM omop.measurement") == before


@pytest.mark.parametrize(
    ("csv", "problem"),
    [
        ("", "empty"),
        ("a,b\n", "no rows"),
        ("a,A\n1,2\n", "capitals"),
        (f"{'x' * 64},b\n1,2\n", "63 bytes"),
        ('"a\nb",c\n1,2\n', "not printable"),
        ("a,b\n1,2,3\n1,2\n,,,\n", None),
    ],
)
def test_a_csv_that_is_no_cohort_is_told(tmp_path: Path, csv: str, problem: str | None) -> None:
    """E0902 with what is wrong, before anything is written."""
    with pytest.raises(FlipError) as caught:
        load_cohort(f"sqlite:///{tmp_path / 'trust.sqlite'}", write_cohort(tmp_path, csv))
    assert caught.value.code == "E0902"
    assert (problem or "") in caught.value.what
    assert not (tmp_path / "trust.sqlite").exists()


def test_a_reader_sees_the_old_cohort_or_the_new_one(url: str, tmp_path: Path) -> None:
    """While it is loaded anew, over and over, every query is answered from one whole load."""
    ones = write_cohort(tmp_path, "person_id,a\n" + "".join(f"{n},1\n" for n in range(300)))
    load_cohort(url, ones)
    twos = write_cohort(tmp_path / "twos" if (tmp_path / "twos").mkdir() is None else tmp_path, "")
    twos.write_text("person_id,a\n" + "".join(f"{n},2\n" for n in range(300)))
    stop = threading.Event()
    failures: list[BaseException] = []

    def reload() -> None:
        try:
            while not stop.is_set():
                for csv in (twos, ones):
                    load_cohort(url, csv)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=reload)
    thread.start()
    database = open_database(url)
    try:
        seen = set()
        for _ in range(40):
            with database.select("SELECT sum(a) AS s, count(*) AS n FROM omop.cohort") as selection:
                seen.add(tuple(map(int, next(iter(selection.batches))[0])))
    finally:
        stop.set()
        thread.join()
        database.close()
    assert failures == []
    assert seen <= {(300, 300), (600, 300)}


def test_a_query_is_approved_by_the_same_rules_as_it_is_sent_by(url: str, tmp_path: Path) -> None:
    """An approval is no way around the validator; what the database refuses is a refusal, in words without values."""
    load_cohort(url, write_cohort(tmp_path))
    for statement, problem in (
        ("DROP TABLE omop.cohort", "only a SELECT may be sent"),
        ("SELECT * FROM omop.canary", "it names a table that is not there"),
        ("SELECT canary FROM omop.cohort", "it names a column that is not there"),
        ("SELECT pg_sleep(1)", "it uses a function that is not allowed"),
    ):
        with pytest.raises(FlipError) as caught:
            approve(url, "Stroke", statement)
        assert caught.value.code == "E0953"
        assert caught.value.what == f"the query cannot be approved for project 'Stroke': {problem}"
    if url.startswith("postgresql"):
        with pytest.raises(FlipError) as caught:
            approve(url, "Stroke", "SELECT CAST(note AS int) FROM omop.cohort")
        assert caught.value.what.endswith("it ends in an error about the data")
        assert CANARY_NOTE not in caught.value.text()
    assert approve(url, "Stroke", "SELECT accession_id FROM omop.cohort WHERE age < 43") == 2
    prefix = "" if url.startswith("sqlite") else "flip_trust."
    (number,) = query(url, f"SELECT snapshot FROM {prefix}flip_project WHERE name = 'Stroke'")[0]
    studies = query(url, f"SELECT accession_id FROM {prefix}flip_study WHERE snapshot = {number} ORDER BY 1")
    assert studies == [("0002",), (CANARY_ACCESSION,)]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 256])
@pytest.mark.parametrize("call", [register_project, lambda url, name: approve(url, name, "SELECT 1")])
def test_a_project_needs_a_name(call: Callable[[str, str], object], name: str, tmp_path: Path) -> None:
    """One that an envelope could not hold is refused before anything is opened."""
    with pytest.raises(FlipError) as caught:
        call(f"sqlite:///{tmp_path / 'trust.sqlite'}", name)
    assert caught.value.code == "E0955"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "address", ["nonsense", "mysql://x/y", "sqlite://", "sqlite:///:memory:", "postgresql://u:canary@127.0.0.1:9/x"]
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(address: str, tmp_path: Path) -> None:
    """E0950, with what is wrong and where it is set."""
    with pytest.raises(FlipError) as caught:
        load_cohort(address, write_cohort(tmp_path))
    assert caught.value.code == "E0950"
    assert "OMOP_DATABASE_URL" in caught.value.fix
    assert "canary" not in caught.value.text()


# -- studies ------------------------------------------------------------------------------------------------------

DICOM = b"\0" * 128 + b"DICM" + b"rest"


def archived(archive: Path) -> dict[str, bytes]:
    return {str(path.relative_to(archive)): path.read_bytes() for path in archive.rglob("*") if path.is_file()}


def test_files_go_where_their_type_is_asked_for(tmp_path: Path) -> None:
    """Folders by type stay; loose files are sorted by what they are, sidecars with the images they belong to."""
    source = tmp_path / "studies"
    write_study(
        source,
        {
            "0001/DICOM/1/a": b"a",
            "0001/SEG/mask.nii.gz": b"mask",
            "0002/input_t1.nii.gz": b"t1",
            "0002/label_t1.NII": b"label",
            "0002/scan.json": b"{}",
            "0002/old/x.dcm": b"dicom by name",
            "0003/1": DICOM,
            "0003/2": b"no preamble",
            "0003/.hidden": b"x",
            "0004/SEG/1/mask.bin": b"m",
            "0004/IMG1": DICOM,
            ".git/config": b"x",
            "readme.txt": b"x",
        },
    )
    loaded = load_images(tmp_path / "archive", source)
    assert archived(tmp_path / "archive") == {
        "0001/DICOM/1/a": b"a",
        "0001/SEG/mask.nii.gz": b"mask",
        "0002/NIFTI/input_t1.nii.gz": b"t1",
        "0002/NIFTI/label_t1.NII": b"label",
        "0002/NIFTI/scan.json": b"{}",
        "0002/DICOM/old/x.dcm": b"dicom by name",
        "0003/DICOM/1": DICOM,
        "0003/DICOM/2": b"no preamble",
        "0004/SEG/1/mask.bin": b"m",
        "0004/DICOM/IMG1": DICOM,
    }
    assert loaded == LoadedImages(4, 10, sum(len(data) for data in archived(tmp_path / "archive").values()))


def test_a_study_that_is_loaded_again_is_replaced_and_others_stay(tmp_path: Path) -> None:
    """Whole, with its times; the source may change afterwards."""
    archive = tmp_path / "archive"
    write_study(tmp_path / "first", {"1/DICOM/a": b"a", "1/DICOM/b": b"b", "2/DICOM/a": b"other"})
    load_images(archive, tmp_path / "first")
    write_study(tmp_path / "second", {"1/DICOM/a": b"anew"})
    os.utime(tmp_path / "second" / "1" / "DICOM" / "a", ns=(1, 1_000_000_007))
    load_images(archive, tmp_path / "second")
    assert archived(archive) == {"1/DICOM/a": b"anew", "2/DICOM/a": b"other"}
    assert (archive / "1" / "DICOM" / "a").stat().st_mtime_ns == 1_000_000_007
    (tmp_path / "second" / "1" / "DICOM" / "a").write_bytes(b"changed")
    assert archived(archive)["1/DICOM/a"] == b"anew"


def test_only_some_studies_can_be_taken(tmp_path: Path) -> None:
    """A trust that has a part of a cohort takes that part's images."""
    write_study(tmp_path / "studies", {f"{number}/DICOM/a": b"a" for number in range(4)})
    assert load_images(tmp_path / "archive", tmp_path / "studies", only={"1", "3", "9"}).studies == 2
    assert sorted(path.name for path in (tmp_path / "archive").iterdir() if path.name[0] != ".") == ["1", "3"]


def test_links_are_followed_inside_and_refused_outside(tmp_path: Path) -> None:
    """An archive holds files; a link to somewhere else would be a way out of it, and is no study's."""
    source = tmp_path / "studies"
    write_study(source, {"1/DICOM/a": b"a"})
    (source / "1" / "DICOM" / "same").symlink_to("a")
    load_images(tmp_path / "archive", source)
    assert archived(tmp_path / "archive") == {"1/DICOM/a": b"a", "1/DICOM/same": b"a"}
    for target in ("/etc/hostname", "gone"):
        (source / "1" / "DICOM" / "out").unlink(missing_ok=True)
        (source / "1" / "DICOM" / "out").symlink_to(target)
        with pytest.raises(FlipError) as caught:
            load_images(tmp_path / "archive", source)
        assert caught.value.code == "E0954"
    assert archived(tmp_path / "archive") == {"1/DICOM/a": b"a", "1/DICOM/same": b"a"}


def test_a_folder_without_studies_is_told(tmp_path: Path) -> None:
    """E0954 names the folder, and never a study's own name or file."""
    (tmp_path / "empty").mkdir()
    write_study(tmp_path / "odd", {"canary..x/DICOM/a": b"a"})
    write_study(tmp_path / "upload-named", {"upload/DICOM/a": b"a"})
    for name in ("gone", "empty", "odd", "upload-named"):
        with pytest.raises(FlipError) as caught:
            load_images(tmp_path / "archive", tmp_path / name)
        assert caught.value.code == "E0954"
        assert name in caught.value.what
        assert "canary" not in caught.value.text()
