"""From a cohort to a data set, beside the documented way: one study at a time, a cohort that lies in memory thrice."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from flip_fl.data.tables import ARROW_STREAM, JSON
from tests.benchmarks.data_parts import Part, run_part
from tests.benchmarks.data_services import COHORT_BODY, cohort_service, late_trust
from tests.benchmarks.figures import Figure

LATENCY_S = 0.02
STUDIES, LARGE = "{count:,} studies from a service with 20 ms latency", "cohort of {rows:,} rows × 20 columns"
FIRST = "dataset of {count:,} studies: time to first batch after the first study is there"
MB = 1_000_000
TIMES, MOST_MB, TIMES_AGAIN, TIMES_ARROW, FIRST_BATCH_S = 12, 200, 100, 10, 1.0


@dataclass(frozen=True)
class Effort:
    """How much is measured, and how often."""

    studies: int = 1_000
    rows: int = 1_000_000
    dataset: int = 10_000
    repeats: int = 3


@dataclass(frozen=True)
class Images:
    """The documented way and ours."""

    documented: Part
    ours: Part


@dataclass(frozen=True)
class Cohort:
    """The documented way, ours as JSON, ours as Arrow."""

    documented: Part
    as_json: Part
    as_arrow: Part


def image_figures(found: Images, count: int) -> list[Figure]:
    """Time, memory and the second round."""
    name = STUDIES.format(count=count)
    ours, theirs = found.ours, found.documented
    again = ours.more["second_s"]
    return [
        Figure(name, ours.seconds, "s", theirs.seconds, f"≥ {TIMES} ×", TIMES * ours.seconds <= theirs.seconds),
        Figure(
            f"{name}: memory",
            ours.grown_bytes / MB,
            "MB",
            theirs.grown_bytes / MB,
            f"≤ {MOST_MB} MB more",
            ours.grown_bytes - theirs.grown_bytes <= MOST_MB * MB,
        ),
        Figure(
            f"{name}: second round from the index",
            again,
            "s",
            theirs.seconds,
            f"≥ {TIMES_AGAIN} ×",
            TIMES_AGAIN * again <= theirs.seconds,
        ),
    ]


def cohort_figures(found: Cohort, rows: int) -> list[Figure]:
    """Time and peak of Arrow and of plain JSON."""
    name, theirs = LARGE.format(rows=rows), found.documented
    made = []
    for how, part, times, share, goal in (
        ("Arrow", found.as_arrow, TIMES_ARROW, 1 / 4, f"≥ {TIMES_ARROW} × faster"),
        ("plain JSON", found.as_json, 1, 1 / 2, "not slower"),
    ):
        faster = times * part.seconds <= theirs.seconds
        made.append(Figure(f"{name}, {how}: time", part.seconds, "s", theirs.seconds, goal, faster))
        small = part.grown_bytes <= share * theirs.grown_bytes
        peak = Figure(
            f"{name}, {how}: peak memory",
            part.grown_bytes / MB,
            "MB",
            theirs.grown_bytes / MB,
            f"≤ {'¼' if share == 1 / 4 else '½'} of the peak",
            small,
        )
        made.append(peak)
    return made


def dataset_figures(found: Part, count: int) -> list[Figure]:
    """Streamed while the others are fetched, and at random once all are there."""
    name, shuffled = FIRST.format(count=count), found.more["map_style_s"]
    goal = f"< {FIRST_BATCH_S:g} s"
    return [
        Figure(name, found.seconds, "s", None, goal, found.seconds < FIRST_BATCH_S),
        Figure(f"{name}, shuffled, all there", shuffled, "s", None, goal, shuffled < FIRST_BATCH_S),
    ]


def measure() -> list[Figure]:
    """All of them."""
    effort = Effort()
    return [
        *image_figures(measure_images(effort), effort.studies),
        *cohort_figures(measure_cohort(effort), effort.rows),
        *dataset_figures(measure_dataset(effort), effort.dataset),
    ]


def measure_images(effort: Effort) -> Images:
    """By turns; nothing lies there when either begins."""
    names = accession_numbers(effort.studies)
    with in_memory() as root, late_trust(root, names, dicom(), LATENCY_S) as trust:
        told = _told(root, names)

        def documented() -> Part:
            part = run_part("images-documented", trust.client, trust.project, told)
            for study in trust.images_dir.iterdir():
                shutil.rmtree(study)
            return part

        found = [(documented(), run_part("images", trust.client, trust.project, told)) for _ in range(effort.repeats)]
    assert {part.count for pair in found for part in pair} == {effort.studies}
    ours = median((pair[1] for pair in found), lambda part: part.seconds)
    again = statistics.median(pair[1].more["second_s"] for pair in found)
    ours = Part(ours.seconds, max(pair[1].grown_bytes for pair in found), ours.count, {"second_s": again})
    return Images(median((pair[0] for pair in found), lambda part: part.seconds), ours)


@contextlib.contextmanager
def in_memory() -> Iterator[Path]:
    """A folder that is on no disk, where the system has one: the service copies thousands of files into it."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as folder:
        yield Path(folder)


def measure_cohort(effort: Effort) -> Cohort:
    """The same rows by turns in all three ways."""
    with tempfile.TemporaryDirectory() as root, cohort_service(Path(root)) as url:
        write_bodies(Path(root), effort.rows)
        ways = (("cohort-documented", url), ("cohort", url, JSON), ("cohort", url, ARROW_STREAM))
        found: list[list[Part]] = [[], [], []]
        for _ in range(effort.repeats):
            for parts, way in zip(found, ways, strict=True):
                parts.append(run_part(*way))
    assert {part.count for parts in found for part in parts} == {effort.rows}
    return Cohort(*(median(parts, lambda part: part.seconds) for parts in found))


def measure_dataset(effort: Effort) -> Part:
    """Once: the time to the first batch is what counts, and the fetch itself takes its time."""
    names = accession_numbers(effort.dataset)
    with in_memory() as root, late_trust(root, names, dicom(), LATENCY_S) as trust:
        part = run_part("first-batch", trust.client, trust.project, _told(root, names))
    assert part.count == effort.dataset
    return part


def median(parts: Iterable[Part], key: Callable[[Part], float]) -> Part:
    """The part in the middle."""
    ordered = sorted(parts, key=key)
    return ordered[len(ordered) // 2]


def accession_numbers(count: int) -> list[str]:
    return [f"ACC{number:06d}" for number in range(count)]


def dicom() -> bytes:
    """One slice of 64 × 64 pixels."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid(entropy_srcs=["1"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID = generate_uid(entropy_srcs=["2"])
    file.Rows = file.Columns = 64
    file.BitsAllocated = file.BitsStored = 16
    file.HighBit, file.PixelRepresentation, file.SamplesPerPixel = 15, 0, 1
    file.PhotometricInterpretation = "MONOCHROME2"
    file.PixelSpacing, file.ImageOrientationPatient = [1, 1], [1, 0, 0, 0, 1, 0]
    file.ImagePositionPatient, file.InstanceNumber = [0, 0, 0], 1
    file.PixelData = np.arange(64 * 64, dtype=np.uint16).tobytes()
    out = io.BytesIO()
    file.save_as(out, enforce_file_format=True)
    return out.getvalue()


def write_bodies(folder: Path, rows: int) -> None:
    """The answers of a data-access service: one text as accession number, fifteen measurements, four more columns."""
    import pyarrow as pa

    random = np.random.default_rng(0)
    columns: dict[str, object] = {"accession_id": accession_numbers(rows), "person_id": np.arange(rows)}
    columns |= {f"measurement_{number}": random.normal(size=rows) for number in range(15)}
    columns |= {"age": random.integers(18, 95, rows), "sex": random.choice(["female", "male"], rows)}
    columns["smoker"] = random.integers(0, 2, rows)
    frame = pd.DataFrame(columns)
    with (folder / f"{COHORT_BODY}.json").open("w", encoding="utf-8") as out:
        json.dump({name: frame[name].tolist() for name in frame.columns}, out)
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_stream(str(folder / f"{COHORT_BODY}.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=65_536)


def _told(folder: Path, names: list[str]) -> Path:
    path = folder / "names.json"
    path.write_text(json.dumps(names), encoding="utf-8")
    return path
