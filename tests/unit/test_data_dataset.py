"""Studies as a torch data set: lazy, safe in workers, nothing missing in silence, nothing of a patient in an error."""

from __future__ import annotations

import contextlib
import logging
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from flip_fl.app.redact import redacted
from flip_fl.data.dataset import StudyDataset, WorkerError
from flip_fl.data.images import Study
from flip_fl.data.listing import StudyFile
from flip_fl.data.manifest import Manifest, SkipReason
from flip_fl.data.volumes import Volume
from flip_fl.errors import FlipError
from flip_fl.values import ResourceType
from tests.support.studies import (
    CANARY,
    nifti_studies,
    small_cohort,
    studies_of,
    write_nifti,
    write_series,
    write_slice,
)

IMAGE, SEG = "image.nii.gz", "SEG/*.nii.gz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


def refused(data: Any, code: str) -> FlipError:
    """The error of asking for everything; it names no study and no value."""
    with pytest.raises(FlipError) as caught:
        list(data)
    assert caught.value.code == code
    assert CANARY not in caught.value.text()
    assert caught.value.__cause__ is None
    return caught.value


# -- items ------------------------------------------------------------------------------------------------------------


def test_an_item_has_what_was_asked_for(root: Path) -> None:
    """Image and label with a channel axis, the target as a tensor, columns as they are."""
    cohort = nifti_studies(root, 3)
    data = studies_of(root, cohort).dataset(IMAGE, label=SEG, target="malignant", columns=("age", "sex"))
    assert isinstance(data, Dataset)
    assert len(data) == 3
    item = data[1]
    assert list(item) == ["image", "label", "target", "age", "sex"]
    assert item["image"].dtype == item["label"].dtype == torch.float32
    assert item["image"].shape == (1, 3, 4, 5)
    assert item["image"].unique().tolist() == [1.0]
    assert item["label"].unique().tolist() == [1.0]
    assert item["target"].dtype == torch.int64
    assert item["target"].shape == ()
    assert (item["target"].item(), item["age"], item["sex"]) == (0, 41.5, "F")
    assert torch.equal(data[-1]["image"], data[2]["image"])
    with pytest.raises(IndexError):
        data[3]


def test_a_dicom_series_is_a_volume_and_a_single_slice_an_image(root: Path) -> None:
    """(1, slice, row, column), and (1, row, column) of a radiograph."""
    volume = np.arange(24, dtype="u2").reshape(2, 3, 4)
    write_series(root / "a" / "DICOM", volume)
    write_slice(root / "b" / "DICOM" / "x.dcm", volume[0])
    data = studies_of(root, pd.DataFrame({"accession_id": ["a", "b"]})).dataset("*.dcm")
    assert data[0]["image"].tolist() == [volume.tolist()]
    assert data[1]["image"].tolist() == [volume[0].tolist()]


def test_the_default_collate_makes_batches(root: Path) -> None:
    """No collate_fn of one's own for numbers, texts, missing numbers and dates."""
    cohort = nifti_studies(root, 4)
    cohort["age"] = [50.0, None, 60.0, 61.0]
    cohort["count"] = pd.array([1, None, 3, 4], dtype="Int64")
    cohort["city"] = ["Leeds", None, "York", "Hull"]
    cohort["seen"] = pd.to_datetime(["2020-01-02", None, "2021-01-01", "2022-01-01"])
    columns = ("age", "count", "city", "seen", "malignant")
    data = studies_of(root, cohort).dataset(IMAGE, target="person_id", columns=columns)
    (batch,) = DataLoader(data, batch_size=4)
    assert batch["image"].shape == (4, 1, 3, 4, 5)
    assert batch["target"].tolist() == [0, 0, 1, 1]
    assert batch["age"].isnan().tolist() == [False, True, False, False]
    assert batch["count"].isnan().tolist() == [False, True, False, False]
    assert batch["city"] == ["Leeds", "", "York", "Hull"]
    assert batch["seen"][:2] == ["2020-01-02T00:00:00", ""]
    assert batch["malignant"].tolist() == [True, False, False, True]


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_worker_processes_give_what_this_process_gives(root: Path, start: str) -> None:
    """Two workers, however they are started: the same tensors in the same order, also in a second pass."""
    cohort = nifti_studies(root, 9)
    data = studies_of(root, cohort).dataset(IMAGE, label=SEG, target="age", columns="sex", prepare=doubled)
    here = [data[place] for place in range(9)]
    loader = DataLoader(
        data, batch_size=2, num_workers=2, multiprocessing_context=start, persistent_workers=start == "spawn"
    )
    for _ in range(2):
        there = list(loader)
        for part in ("image", "label", "target"):
            assert torch.equal(torch.cat([batch[part] for batch in there]), torch.stack([item[part] for item in here]))
        assert [sex for batch in there for sex in batch["sex"]] == [item["sex"] for item in here]


def doubled(volumes: dict[str, Volume]) -> dict[str, Any]:
    return {name: volume.array[None] * 2 for name, volume in volumes.items()}


def test_what_travels_to_a_worker_is_small_and_holds_no_cohort(root: Path) -> None:
    """Ten workers must not hold ten copies of all patients' rows."""
    cohort = nifti_studies(root, 3)
    cohort["unused"] = "rows of a patient"
    data = studies_of(root, cohort).dataset(IMAGE, columns=("age",))
    raw = pickle.dumps(data)
    assert b"rows of a patient" not in raw
    copy = pickle.loads(raw)
    assert torch.equal(copy[2]["image"], data[2]["image"])
    assert (len(copy), copy.datalist()) == (3, data.datalist())
    for what in (lambda: copy.split(), lambda: copy.manifest, lambda: copy.readable()):
        with pytest.raises(FlipError) as caught:
            what()
        assert caught.value.code == "E0929"


def test_a_transform_is_applied_each_time(root: Path) -> None:
    """It may be random; what prepare gave is not changed by it."""
    calls = Counter[str]()

    def transform(item: dict[str, Any]) -> Any:
        calls["transform"] += 1
        item["image"] += calls["transform"]
        return item["image"].max().item()

    data = studies_of(root, nifti_studies(root, 2)).dataset(IMAGE, transform=transform)
    assert [data[1], data[1], data[0]] == [2.0, 3.0, 3.0]


# -- laziness, and which files match ----------------------------------------------------------------------------------


@dataclass
class Listed:
    """Studies whose files are nowhere: whoever looks at the disk fails."""

    cohort: pd.DataFrame
    found: list[Study]
    derived_dir: Path | None = None
    manifest: Manifest = field(default_factory=Manifest)
    asked = settled = 0

    def studies(self) -> list[Study]:
        return self.found

    def arriving(self) -> Iterator[Study]:
        return iter(self.found)


def listed(*files: str, folders: dict[ResourceType, Path] | None = None, count: int = 1) -> Listed:
    names = [f"{number:05d}" for number in range(count)]
    found = []
    for name in names:
        base = Path("/nowhere") / name
        at = folders or {ResourceType.ALL: base}
        found.append(Study(name, at, tuple(StudyFile(str(base / file), 1, 1) for file in files)))
    return Listed(pd.DataFrame({"accession_id": names, "person_id": names}), found)


def matched(studies: Listed, image: str, label: str | None = None) -> list[dict[str, Any]]:
    data = StudyDataset.of(studies, image, label=label).datalist()
    return [
        {
            part: [
                str(path).removeprefix("/nowhere/00000/") for path in (paths if isinstance(paths, list) else [paths])
            ]
            for part, paths in item.items()
        }
        for item in data
    ]


def test_a_data_set_of_ten_thousand_studies_looks_at_no_disk() -> None:
    """Files are matched by the list that came with each study: none of these is there."""
    studies = listed("SCANS/1/DICOM/a.dcm", "SEG/x.nii.gz", count=10_000)
    data = StudyDataset.of(studies, "*.dcm", label=SEG)
    assert len(data) == 10_000
    assert len(data.split()[0]) == 7_000


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.dcm", ["SCANS/1/DICOM/a.dcm", "SCANS/1/DICOM/b.dcm", "top.dcm"]),
        ("DICOM/*.dcm", ["SCANS/1/DICOM/a.dcm", "SCANS/1/DICOM/b.dcm"]),
        ("SCANS/**/*.dcm", ["SCANS/1/DICOM/a.dcm", "SCANS/1/DICOM/b.dcm"]),
        ("./SCANS/1//DICOM/[!b].dcm", ["SCANS/1/DICOM/a.dcm"]),
        ("to?.dcm", ["top.dcm"]),
        ("*.[Dd]cm", ["SCANS/1/DICOM/a.dcm", "SCANS/1/DICOM/b.dcm", "top.dcm"]),
        ("*OP*", []),
        ("00000/*.dcm", []),
        ("[.dcm", []),
    ],
)
def test_patterns_match_from_the_right_at_any_depth(pattern: str, expected: list[str]) -> None:
    """As Path.rglob in the study's folder, whose own name takes no part: it may be an accession number."""
    studies = listed("SCANS/1/DICOM/a.dcm", "SCANS/1/DICOM/b.dcm", "SCANS/1/DICOM/note", "top.dcm")
    if expected:
        assert matched(studies, pattern) == [{"image": expected}]
    else:
        refused(StudyDataset.of(studies, pattern), "E0921")


def test_a_types_own_folder_is_part_of_the_path() -> None:
    """Services give one folder for all types, one each, or one type was asked for: SEG/*.nii.gz means the same."""
    base = Path("/nowhere/00000")
    files = ("DICOM/a.dcm", "SEG/x.nii.gz")
    each = {ResourceType.DICOM: base / "DICOM", ResourceType.SEG: base / "SEG"}
    for folders in (None, each, {ResourceType.ALL: base, ResourceType.SEG: base / "SEG"}):
        assert matched(listed(*files, folders=folders), "DICOM/*.dcm", "SEG/*.nii.gz") == [
            {"image": ["DICOM/a.dcm"], "label": ["SEG/x.nii.gz"]}
        ]
    assert matched(listed(files[1], folders={ResourceType.SEG: base / "SEG"}), "SEG/*.nii.gz") == [
        {"image": ["SEG/x.nii.gz"]}
    ]


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("", "it is empty"),
        ("/etc/*.dcm", "it is absolute"),
        ("../*.dcm", "it holds .."),
        ("[z-a].dcm", "its brackets are malformed"),
    ],
)
def test_a_pattern_that_can_match_nothing_is_refused_at_once(pattern: str, problem: str) -> None:
    """Before anything is waited for."""
    for options in ({"image": pattern}, {"image": "*.dcm", "label": pattern}):
        with pytest.raises(FlipError) as caught:
            StudyDataset.of(listed("a.dcm"), **options)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.facts["problem"]) == ("E0924", problem)


def test_a_study_without_a_file_of_that_name_is_counted(root: Path) -> None:
    """Half of the studies have no segmentation: they are left out, and the manifest says so."""
    cohort = nifti_studies(root, 4)
    for name in cohort["accession_id"][:2]:
        (root / name / "SEG" / "seg.nii.gz").unlink()
    cohort = pd.concat([cohort, pd.DataFrame({"accession_id": [f"{CANARY}-none", None]})])
    studies = studies_of(root, cohort)
    data = studies.dataset(IMAGE, label=SEG)
    assert len(data) == 2
    assert data.manifest.skipped == {
        SkipReason.NO_FILE: 2,
        SkipReason.EMPTY: 1,
        SkipReason.NO_ACCESSION: 1,
    }
    assert len(studies.dataset(IMAGE)) == 4
    assert CANARY not in str(data.manifest) + repr(data)


def test_a_pattern_that_matches_nothing_at_all_is_an_error(root: Path) -> None:
    """A typing mistake would train on an empty data set."""
    error = refused(studies_of(root, nifti_studies(root, 3)).dataset("*.dmc"), "E0921")
    assert error.what == "no study can be used: 3 without a file of that name"


@pytest.mark.parametrize(
    ("files", "image", "label", "part"),
    [
        (("a.nii.gz", "b.nii.gz"), "*.nii.gz", None, "image"),
        (("a.nii.gz", "b.dcm"), "[ab].*", None, "image"),
        (("a.dcm", "SEG/a.dcm", "SEG/b.dcm"), "a.dcm", "SEG/*", "label"),
        (("a.dcm", "x.nii.gz", "y.nii.gz"), "*.dcm", "*.nii.gz", "label"),
    ],
)
def test_several_files_where_one_is_needed_are_an_error(
    files: tuple[str, ...], image: str, label: str | None, part: str
) -> None:
    """The first of them would be a guess."""
    studies = listed("a.dcm", "one.nii.gz", "SEG/a.dcm", count=2)
    studies.found[1] = listed(*files).found[0]
    with pytest.raises(FlipError) as caught:
        StudyDataset.of(studies, image, label=label)
    assert (caught.value.code, caught.value.facts["part"]) == ("E0922", part)
    assert "files of study 2 of 2" in caught.value.what


# -- targets and columns ----------------------------------------------------------------------------------------------


def column_refused(cohort: pd.DataFrame, **options: Any) -> FlipError:
    with pytest.raises(FlipError) as caught:
        StudyDataset.of(Listed(cohort, []), "*.dcm", **options)
    assert caught.value.code == "E0923"
    assert CANARY not in caught.value.text()
    return caught.value


def test_columns_that_cannot_be_used_are_refused_before_anything_is_waited_for() -> None:
    """Not there, missing values, text, rows that differ, a name that is taken: said by number, never by value."""
    cohort = small_cohort(4)
    assert "there is no such column" in column_refused(cohort, target="weight").what
    assert "there is no such column" in column_refused(cohort, columns=("weight",)).what
    assert "holds something else" in column_refused(cohort, target="sex").what
    assert "holds something else" in column_refused(cohort, target="accession_id").what
    gap = cohort.assign(malignant=[1.0, None, 0.0, None])
    assert "2 of 4 studies have no value in it" in column_refused(gap, target="malignant").what
    torn = pd.concat([cohort, cohort.assign(age=[40.5, 1.0, 1.0, 43.5])])
    assert "2 of 4 studies have rows that differ in it" in column_refused(torn, target="age").what
    assert "2 of 4 studies have rows that differ in it" in column_refused(torn, columns=("sex", "age")).what
    taken = cohort.assign(target=1, image=2)
    assert "already has a part of that name" in column_refused(taken, target="target", columns=("target",)).what
    assert "already has a part of that name" in column_refused(taken, columns=("image",)).what
    assert "already has a part of that name" in column_refused(taken, columns=("age", "age")).what


def test_a_study_with_several_rows_is_one_item(root: Path) -> None:
    """A row a measurement, where target and columns are the study's."""
    cohort = nifti_studies(root, 3)
    twice = pd.concat([cohort, cohort]).assign(measurement=range(6))
    data = studies_of(root, twice).dataset(IMAGE, target="malignant", columns=("age", "sex"))
    assert [item["target"].item() for item in data] == [1, 0, 0]
    assert [item["age"] for item in data] == [40.5, 41.5, 42.5]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], torch.int64),
        ([1, 0], torch.int64),
        (pd.array([1, 0], dtype="Int8"), torch.int64),
        (pd.array([True, False], dtype="boolean"), torch.int64),
        ([1.0, 0.0], torch.float32),
        (pd.array([1.0, 0.0], dtype="Float64"), torch.float32),
    ],
)
def test_a_targets_type_follows_its_columns_type(root: Path, values: Any, kind: torch.dtype) -> None:
    """By type and not by the values there are: the same at every site."""
    cohort = nifti_studies(root, 2).assign(y=values)
    data = studies_of(root, cohort).dataset(IMAGE, target="y")
    assert data[0]["target"].dtype == kind
    assert data.balance() == {0: 1, 1: 1}


def test_balance_counts_targets(root: Path) -> None:
    """What a weighted loss needs; of a part, that part's."""
    cohort = nifti_studies(root, 10)
    data = studies_of(root, cohort).dataset(IMAGE, target="malignant")
    assert data.balance() == {0: 6, 1: 4}
    parts = [part.balance() for part in data.split(fractions=(0.6, 0.4))]
    assert sum((Counter(part) for part in parts), Counter()) == {0: 6, 1: 4}
    with pytest.raises(FlipError, match="the data set has none"):
        studies_of(root, cohort).dataset(IMAGE).balance()


# -- patients ---------------------------------------------------------------------------------------------------------


def patients(data: StudyDataset) -> set[int]:
    return {item["person_id"] for item in data}


def test_no_patient_is_in_two_parts_whatever_came(root: Path) -> None:
    """A study that cannot be fetched in some round must not move a patient to another side."""
    cohort = nifti_studies(root, 40)
    before = studies_of(root, cohort).dataset(IMAGE, columns=("person_id",)).split(seed=3)
    people, sizes = [patients(part) for part in before], [len(part) for part in before]
    assert [len(each) for each in people] == [14, 3, 3]
    assert sum(sizes) == 40
    for name in cohort["accession_id"][::7]:
        (root / name / "NIFTI" / "image.nii.gz").unlink()
        (root / name / "SEG" / "seg.nii.gz").unlink()
    after = studies_of(root, cohort.sample(frac=1, random_state=1)).dataset(IMAGE, columns=("person_id",)).split(seed=3)
    for these, size, smaller in zip(people, sizes, after, strict=True):
        assert patients(smaller) <= these
        assert sum(smaller.manifest.skipped.values()) == size - len(smaller)
    assert sum(len(part) for part in after) == 34


def test_a_part_is_a_data_set_with_all_its_options(root: Path) -> None:
    """Split, look at, split again, and go through it in order of arrival."""
    data = studies_of(root, nifti_studies(root, 20)).dataset(IMAGE, target="age", columns=("person_id",))
    train, _ = data.split(fractions=(0.5, 0.5))
    first, second = train.split(fractions=(0.5, 0.5), seed=9)
    assert not patients(first) & patients(second)
    assert patients(first) | patients(second) == patients(train)
    arrived = [item["target"].item() for item in first.arriving()]
    assert sorted(arrived) == sorted(item["target"].item() for item in first)


def test_what_is_known_can_be_forked_unasked(root: Path) -> None:
    """A loader in plain order, over a part or over all of what came, starts its workers before anybody counted."""
    studies = studies_of(root, nifti_studies(root, 4)).wait()
    for data in (studies.dataset(IMAGE), studies.dataset(IMAGE).split(fractions=(0.5, 0.5))[1]):
        for each in (data, data.readable()):
            assert len(list(DataLoader(each, num_workers=1, multiprocessing_context="fork"))) == len(each)


def test_a_split_waits_for_nothing(root: Path) -> None:
    """Who is where is decided by the cohort: training may begin with the first study."""
    cohort = nifti_studies(root, 6)
    gate = threading.Event()
    studies = studies_of(root, cohort, hold=lambda name: gate.wait(60))
    data = studies.dataset(IMAGE)
    train, test = data.readable().split(fractions=(0.5, 0.5))
    assert studies.settled == 0
    assert repr(train) == "StudyDataset(studies still on their way)"
    gate.set()
    assert len(train) + len(test) == 6
    assert repr(data) == "StudyDataset(6 items)"


# -- studies that cannot be read --------------------------------------------------------------------------------------


def broken_studies(root: Path, count: int = 6) -> pd.DataFrame:
    """The third of ``count`` has an image that is no image."""
    cohort = nifti_studies(root, count)
    (root / cohort["accession_id"][2] / "NIFTI" / "image.nii.gz").write_text(f"{CANARY} of {CANARY}")
    return cohort


def test_an_unreadable_study_is_an_error_that_names_its_place(root: Path) -> None:
    """Neither left out in silence nor replaced; neither its number, its path nor what the library said."""
    data = studies_of(root, broken_studies(root)).dataset(IMAGE)
    assert data[1]["image"].max() == 1
    with pytest.raises(FlipError) as caught:
        data[2]
    assert caught.value.what == "study 3 of 6 cannot be read: a file is called NIfTI and does not begin as one"
    assert caught.value.fix == "data.readable() leaves such studies out and counts them"
    assert CANARY not in redacted(caught.value)
    assert CANARY not in caught.value.text()
    assert caught.value.__suppress_context__
    with pytest.raises(FlipError, match="study 3 of 6"):
        data.volumes(2)


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_the_error_comes_whole_out_of_a_worker_process(root: Path, start: str) -> None:
    """torch keeps a type and a text of what a worker raises; the hub still hears which kind of trouble it was."""
    data = studies_of(root, broken_studies(root)).wait().dataset(IMAGE)
    with pytest.raises(FlipError) as caught:
        list(DataLoader(data, num_workers=2, multiprocessing_context=start))
    sentence = "study 3 of 6 cannot be read: a file is called NIfTI and does not begin as one"
    assert caught.value.what == sentence
    assert sentence in redacted(caught.value)
    assert CANARY not in redacted(caught.value)
    assert CANARY not in caught.value.text()


@pytest.mark.parametrize(
    "text", ["", f"WorkerError: E0920 1 2 {CANARY}", f"WorkerError: E0920 1 {CANARY} GONE", f"WorkerError: {CANARY}"]
)
def test_nothing_else_passes_by_that_way(text: str) -> None:
    """Who makes up such a text gets no word of it into a message of ours."""
    with pytest.raises((RuntimeError, KeyError)) as caught:
        WorkerError(message=text)
    assert CANARY not in redacted(caught.value)


def test_readable_leaves_them_out_and_counts_them(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One corrupt study of many must not end a training."""
    data = studies_of(root, broken_studies(root)).dataset(IMAGE, target="age").readable(max_skipped=0.2)
    assert [item["target"].item() for item in data] == [40.5, 41.5, 43.5, 44.5, 45.5]
    assert data.manifest.skipped == {SkipReason.UNREADABLE: 1}
    assert len(list(DataLoader(data, num_workers=2, multiprocessing_context="fork"))) == 5
    assert CANARY not in caplog.text


def test_too_many_unreadable_studies_are_an_error(root: Path) -> None:
    """The summary says how many of which kind."""
    error = refused(studies_of(root, broken_studies(root)).dataset(IMAGE).readable(), "E0927")
    assert error.what == "1 of 6 studies cannot be read: 1: a file is called NIfTI and does not begin as one"
    assert "0.05" in error.why


def test_the_share_is_of_all_studies_also_where_parts_are_used(root: Path) -> None:
    """One of six in a part of two is not half of everything."""
    data = studies_of(root, broken_studies(root)).dataset(IMAGE).readable(max_skipped=0.2)
    parts = data.split(fractions=(0.34, 0.33, 0.33))
    assert sum(len(part) for part in parts) == 5
    assert sum(part.manifest.skipped.get(SkipReason.UNREADABLE, 0) for part in parts) == 1


def test_damage_that_headers_do_not_show_is_found_with_pixels(root: Path) -> None:
    """A compressed image with bits changed inside: whoever wants to be sure reads everything once."""
    cohort = nifti_studies(root, 4)
    path = root / cohort["accession_id"][1] / "NIFTI" / "image.nii.gz"
    write_nifti(path, np.random.default_rng(0).integers(0, 999, (12, 12, 12)).astype("i2"))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 40] = bytes(40)
    path.write_bytes(raw)
    data = studies_of(root, cohort).dataset(IMAGE)
    assert len(data.readable(0.5)) == 4
    assert len(data.readable(0.5, pixels=True)) == 3


def test_a_missing_decoder_says_what_to_install(root: Path) -> None:
    """Every study of a device would fail."""
    from pydicom.uid import HTJ2KLossless

    write_slice(root / "a" / "x.dcm", np.zeros((4, 4), "u2"))
    raw = (root / "a" / "x.dcm").read_bytes()
    # Encapsulated by name only: what counts is asked before any pixel is decoded.
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    data = dcmread(root / "a" / "x.dcm")
    data.file_meta.TransferSyntaxUID = HTJ2KLossless
    data.PixelData = encapsulate([b"\0" * 16])
    data.save_as(root / "a" / "x.dcm", enforce_file_format=True)
    assert raw != (root / "a" / "x.dcm").read_bytes()
    data_set = studies_of(root, pd.DataFrame({"accession_id": ["a"]})).wait().dataset("*.dcm")
    error = refused(data_set, "E0920")
    assert "(High-Throughput JPEG 2000 Image Compression (Lossless Only), 1.2.840.10008.1.2.4.201)" in str(error)
    assert error.fix.startswith("pip install 'flip_fl[imaging]', which brings python-gdcm")
    loader = torch.utils.data.DataLoader(data_set, num_workers=1)
    with pytest.raises(FlipError, match=r"1\.2\.840\.10008\.1\.2\.4\.201") as caught:
        next(iter(loader))
    assert caught.value.code == "E0920"


# -- in order of arrival ----------------------------------------------------------------------------------------------


def test_the_first_item_is_there_with_the_first_study(root: Path) -> None:
    """Ten thousand studies take a while to come; training begins with the first batch."""
    cohort = nifti_studies(root, 6)
    gates = {name: threading.Event() for name in cohort["accession_id"]}
    studies = studies_of(root, cohort, hold=lambda name: gates[name].wait(60))
    data = studies.dataset(IMAGE, target="age")
    stream = data.arriving()
    assert isinstance(stream, IterableDataset)
    items = iter(DataLoader(stream, batch_size=None))
    order = [3, 0, 1, 2, 5, 4]
    got = []
    for number in order:
        gates[cohort["accession_id"][number]].set()
        got.append(next(items)["image"].max().item())
        assert studies.settled == len(got)
    assert got == order
    with pytest.raises(StopIteration):
        next(items)
    assert len(data) == 6
    assert sorted(item["image"].max().item() for item in data.arriving()) == [0, 1, 2, 3, 4, 5]


def test_two_streams_at_once_lose_nothing(root: Path) -> None:
    """Training and validation parts that are read in turn share the studies that arrive."""
    data = studies_of(root, nifti_studies(root, 20)).dataset(IMAGE, columns=("person_id",))
    parts = data.split(fractions=(0.5, 0.5))
    streams = [iter(part.arriving()) for part in parts]
    got: list[set[float]] = [set(), set()]
    for turn in range(100):
        with contextlib.suppress(StopIteration):
            got[turn % 2].add(next(streams[turn % 2])["image"].max().item())
    assert [len(each) for each in got] == [len(part) for part in parts]


def test_arriving_leaves_out_and_counts_as_the_data_set_does(root: Path) -> None:
    """Files that do not match, unreadable ones with readable(), errors by place without."""
    cohort = broken_studies(root)
    (root / cohort["accession_id"][0] / "NIFTI" / "image.nii.gz").unlink()
    data = studies_of(root, cohort).dataset(IMAGE)
    assert len(list(data.readable(0.2).arriving())) == 4
    error = refused(data.arriving(), "E0920")
    assert "of 6 cannot be read" in error.what
    refused(studies_of(root, cohort).dataset(IMAGE).readable(0.1).arriving(), "E0927")
    refused(studies_of(root, cohort).dataset("*.dmc").arriving(), "E0921")


@pytest.mark.parametrize("start", ["spawn", "fork"])
def test_worker_processes_cannot_wait_for_studies(root: Path, start: str) -> None:
    """The threads that fetch live in one process: a clear error instead of a worker that hangs."""
    data = studies_of(root, nifti_studies(root, 2)).dataset(IMAGE)
    with pytest.raises(FlipError) as caught:
        list(DataLoader(data.arriving(), num_workers=1, multiprocessing_context=start))
    assert caught.value.code == "E0928"


def test_a_worker_forked_while_studies_come_does_not_hang(root: Path) -> None:
    """A loader in plain order forks before it asks how many items there are."""
    cohort = nifti_studies(root, 4)
    gate = threading.Event()
    studies = studies_of(root, cohort, hold=lambda name: gate.wait(60))
    data = studies.dataset(IMAGE)
    timer = threading.Timer(1.0, gate.set)
    timer.start()
    with pytest.raises(FlipError) as caught:
        list(DataLoader(data, num_workers=2, multiprocessing_context="fork"))
    assert caught.value.code == "E0928"
    timer.join()
    assert len(list(DataLoader(data, num_workers=2, multiprocessing_context="fork"))) == 4


# -- prepare, and the cache -------------------------------------------------------------------------------------------


def test_prepare_gets_volumes_and_gives_what_the_item_holds(root: Path) -> None:
    """Spacing and affine for resampling; any number of channels and parts; volumes get their channel axis."""
    cohort = nifti_studies(root, 1)

    def prepare(volumes: dict[str, Volume]) -> dict[str, Any]:
        assert volumes["image"].spacing == (1.0, 1.0, 1.0)
        assert volumes["image"].affine.shape == (4, 4)
        image = volumes["image"].array
        return {
            "image": np.stack([image, image + 1]).astype("f8"),
            "mask": volumes["label"],
            "bins": np.array([1, 2], dtype=">u2"),
            "flag": torch.tensor([True]),
            "mean": 1.5,
        }

    item = studies_of(root, cohort).dataset(IMAGE, label=SEG, prepare=prepare)[0]
    assert {name: (tuple(part.shape), part.dtype) for name, part in item.items()} == {
        "image": ((2, 3, 4, 5), torch.float32),
        "mask": ((1, 3, 4, 5), torch.float32),
        "bins": ((2,), torch.int32),
        "flag": ((1,), torch.bool),
        "mean": ((), torch.float32),
    }


@pytest.mark.parametrize(
    "returned", [None, [], {}, {1: np.zeros(3)}, {"image": "text"}, {"image": None}, {"target": 1.0}, {"age": 1.0}]
)
def test_what_prepare_may_not_return_is_said(root: Path, returned: Any) -> None:
    """A type and no value."""
    data = studies_of(root, nifti_studies(root, 1)).dataset(
        IMAGE, target="malignant", columns=("age",), prepare=lambda volumes: returned
    )
    assert "it returned" in refused(data, "E0925").what


def test_an_error_of_prepare_is_the_researchers_own(root: Path) -> None:
    """It comes as it was raised."""

    def prepare(volumes: dict[str, Volume]) -> dict[str, Any]:
        raise ZeroDivisionError("my own")

    with pytest.raises(ZeroDivisionError, match="my own"):
        studies_of(root, nifti_studies(root, 1)).dataset(IMAGE, prepare=prepare)[0]


def test_what_prepare_gave_is_kept_between_rounds_and_workers(root: Path, tmp_path: Path) -> None:
    """Once for each study, whoever asks; again when the file changes, or the function."""
    cohort = nifti_studies(root, 4)
    counted = tmp_path / "counted"
    counted.mkdir()
    text = PREPARE_MODULE.format(counted=str(counted))

    def data(source: str = text, cache_bytes: int = 1 << 20) -> StudyDataset:
        namespace: dict[str, Any] = {"__name__": "app_of_a_test"}
        exec(compile(source, "app_of_a_test.py", "exec", dont_inherit=True), namespace)
        studies = studies_of(root, cohort, derived_dir=tmp_path / "derived").wait()
        return studies.dataset(IMAGE, prepare=namespace["prepare"], cache_bytes=cache_bytes)

    def calls() -> int:
        found = len(list(counted.iterdir()))
        for each in counted.iterdir():
            each.unlink()
        return found

    sys.modules["app_of_a_test"] = __import__("types").ModuleType("app_of_a_test")
    try:
        assert [item["image"].max().item() for item in data()] == [0.0, 0.5, 1.0, 1.5]
        assert calls() == 4
        assert [item["image"].max().item() for item in data()] == [0.0, 0.5, 1.0, 1.5]
        loader = DataLoader(data(), batch_size=None, num_workers=2, multiprocessing_context="fork")
        assert [item["image"].max().item() for item in loader] == [0.0, 0.5, 1.0, 1.5]
        assert calls() == 0
        write_nifti(root / cohort["accession_id"][3] / "NIFTI" / "image.nii.gz", np.full((2, 2, 2), 9, "i2"))
        assert [item["image"].max().item() for item in data()] == [0.0, 0.5, 1.0, 4.5]
        assert calls() == 1
        assert [item["image"].max().item() for item in data(text.replace("/ 2", "/ 4"))] == [0.0, 0.25, 0.5, 2.25]
        assert calls() == 4
        assert len(list(data(cache_bytes=0))) == 4
        assert calls() == 4
    finally:
        del sys.modules["app_of_a_test"]


PREPARE_MODULE = """
import pathlib, uuid
COUNTED = {counted!r}
def prepare(volumes):
    (pathlib.Path(COUNTED) / uuid.uuid4().hex).touch()
    return {{"image": volumes["image"].array[None] / 2}}
"""


def test_studies_whose_files_look_alike_are_not_mixed_up(root: Path, tmp_path: Path) -> None:
    """Names, sizes and times are the same in every study here: a cache by those alone would give another patient's."""
    import os

    cohort = small_cohort(3)
    for number, name in enumerate(cohort["accession_id"]):
        os.utime(write_nifti(root / name / "a.nii", np.full((2, 2, 2), number, "i2")), ns=(10**18, 10**18))
    for _ in range(2):
        data = studies_of(root, cohort, derived_dir=tmp_path / "derived").dataset("a.nii", cache_bytes=1 << 20)
        assert [item["image"].max().item() for item in data] == [0, 1, 2]
    assert len(list((tmp_path / "derived").glob("*.npz"))) == 3
    assert CANARY not in "".join(str(path.relative_to(tmp_path)) for path in (tmp_path / "derived").iterdir())


def test_where_nothing_can_be_cached_it_is_said_once(
    root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No folder, or a function that holds an object: items come all the same."""
    cohort = nifti_studies(root, 2)
    state = object()
    assert len(list(studies_of(root, cohort).dataset(IMAGE, cache_bytes=1 << 20))) == 2
    odd = studies_of(root, cohort, derived_dir=tmp_path / "derived").dataset(
        IMAGE, cache_bytes=1 << 20, prepare=lambda volumes: {"image": volumes["image"], "n": float(state is not None)}
    )
    assert len(list(odd)) == 2
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "derived tensors are not cached: there is no folder for them",
        "derived tensors are not cached: what prepare() does depends on objects",
    ]
    assert not (tmp_path / "derived").exists()


# -- MONAI, and no torch ----------------------------------------------------------------------------------------------


def test_the_data_list_holds_plain_paths_and_values(root: Path) -> None:
    """A path, a series' folder or the list of its paths, and values that json can write."""
    write_series(root / f"{CANARY}-00000" / "DICOM", np.zeros((3, 2, 2), "u2"))
    cohort = nifti_studies(root, 2)
    studies = studies_of(root, cohort)
    items = studies.dataset(IMAGE, label=SEG, target="malignant", columns=("age", "sex")).datalist()
    base = root / f"{CANARY}-00001"
    assert items[1] == {
        "image": str(base / "NIFTI" / "image.nii.gz"),
        "label": str(base / "SEG" / "seg.nii.gz"),
        "target": 0,
        "age": 41.5,
        "sex": "F",
    }
    folder = root / f"{CANARY}-00000" / "DICOM"
    (series,) = studies.dataset("*.dcm").datalist()
    assert series["image"] == str(folder)
    write_slice(folder / "other", np.zeros((2, 2), "u2"))
    (series,) = studies_of(root, cohort).dataset("*.dcm").datalist()
    assert series["image"] == sorted(str(path) for path in folder.glob("*.dcm"))


def test_monai_reads_the_data_list_as_we_read_the_files(root: Path) -> None:
    """The same voxels in the same places, through MONAI's own loader."""
    transforms = pytest.importorskip("monai.transforms", reason="LEFT OUT: MONAI is not installed")
    cohort = nifti_studies(root, 2)
    affine = np.array([[-2.0, 0, 0, 9], [0, 3.0, 0, -12], [0, 0, 1.5, -7], [0, 0, 0, 1]])
    voxels = np.arange(60, dtype="i2").reshape(3, 4, 5)
    write_nifti(root / cohort["accession_id"][1] / "NIFTI" / "image.nii.gz", voxels, affine=affine, zooms=(2, 3, 1.5))
    data = studies_of(root, cohort).dataset(IMAGE, label=SEG, target="malignant")
    load = transforms.LoadImaged(keys=["image", "label"], ensure_channel_first=True)
    for place, item in enumerate(data.datalist()):
        loaded = load(item)
        ours = data[place]
        for part in ("image", "label"):
            assert np.array_equal(loaded[part].numpy(), ours[part].numpy())
            assert np.allclose(loaded[part].affine.numpy(), data.volumes(place)[part].affine)
    assert data[1]["image"][0].tolist() == voxels.tolist()


def test_monai_reads_a_series_in_the_same_places(root: Path) -> None:
    """A third reader puts every voxel of an oblique series where we put it; its axes are the other way round."""
    transforms = pytest.importorskip("monai.transforms", reason="LEFT OUT: MONAI is not installed")
    row, column = np.array([0.8, 0.6, 0.0]), np.array([0.0, 0.0, -1.0])
    normal = np.cross(row, column)
    volume = np.arange(3 * 4 * 5, dtype="u2").reshape(3, 4, 5)
    for number, pixels in enumerate(volume):
        write_slice(
            root / "a" / "DICOM" / f"{number}.dcm",
            pixels,
            InstanceNumber=number + 1,
            ImageOrientationPatient=[*row, *column],
            ImagePositionPatient=[float(value) for value in np.array([-10.0, 20.0, 30.0]) + 2.0 * number * normal],
            PixelSpacing=[0.7, 0.3],
        )
    data = studies_of(root, pd.DataFrame({"accession_id": ["a"]})).dataset("*.dcm")
    loaded = transforms.LoadImaged(keys=["image"])(data.datalist()[0])["image"]
    ours = data.volumes(0)["image"]
    for slice_number, row_index, column_index in np.ndindex(*ours.array.shape):
        assert loaded[column_index, row_index, slice_number] == ours.array[slice_number, row_index, column_index]
        theirs = loaded.affine.numpy() @ [column_index, row_index, slice_number, 1]
        assert np.allclose(theirs, ours.affine @ [slice_number, row_index, column_index, 1], atol=1e-4)


def test_monais_transforms_take_our_items(root: Path) -> None:
    """Channel first, in a dict: what its dictionary transforms work on."""
    transforms = pytest.importorskip("monai.transforms", reason="LEFT OUT: MONAI is not installed")
    transform = transforms.Compose(
        [transforms.ScaleIntensityd(keys="image"), transforms.Resized(keys=["image", "label"], spatial_size=(6, 6, 6))]
    )
    data = studies_of(root, nifti_studies(root, 2)).dataset(IMAGE, label=SEG, transform=transform)
    (batch,) = DataLoader(data, batch_size=2)
    assert batch["image"].shape == batch["label"].shape == (2, 1, 6, 6, 6)


def test_without_torch_the_error_names_the_pip_install() -> None:
    """torch is an extra; the rest of the package works without."""
    script = """
import sys
sys.modules["torch"] = None
import flip_fl.data.loading, flip_fl.data.selection
from flip_fl.errors import FlipError
try:
    import flip_fl.data.dataset
except FlipError as error:
    print(error.code, error.fix)
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.strip() == "E0509 pip install 'flip_fl[torch]'"
