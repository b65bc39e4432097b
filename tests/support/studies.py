"""Small real studies on disk: DICOM files through pydicom, NIfTI files byte by byte, and the source that gives them."""

from __future__ import annotations

import copy
import gzip
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from flip_fl.data.images import Studies, fetch_studies
from flip_fl.values import ResourceType

# What stands where a patient's name or number would: it must turn up nowhere.
CANARY = "Zorkmid"
SERIES = "1.2.826.0.1.3680043.8.498.1"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def slice_file(pixels: NDArray[Any], **elements: Any) -> FileDataset:
    """One CT slice of (rows, columns) 16-bit pixels; an element of None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = elements.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    rows, columns = pixels.shape
    values: dict[str, Any] = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "PatientName": CANARY,
        "PatientID": CANARY,
        "AccessionNumber": CANARY,
        "SeriesInstanceUID": SERIES,
        "InstanceNumber": 1,
        "ImageOrientationPatient": list(AXIAL),
        "ImagePositionPatient": [0.0, 0.0, 0.0],
        "PixelSpacing": [1.0, 1.0],
        "SliceThickness": 1.0,
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelData": np.ascontiguousarray(pixels, dtype=pixels.dtype.newbyteorder("<")).tobytes(),
    }
    for name, value in (values | elements).items():
        if value is not None:
            setattr(data, name, value)
    return data


def write_slice(path: Path, pixels: NDArray[Any], **elements: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    slice_file(pixels, **elements).save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, volume: NDArray[Any], *, step: float = 1.0, **elements: Any) -> list[Path]:
    """``volume`` (slice, row, column) as axial slices ``step`` mm apart, the first at 0; file names say nothing."""
    return [
        write_slice(
            folder / f"{7 * number % 101:03d}.dcm",
            pixels,
            **{"InstanceNumber": number + 1, "ImagePositionPatient": [0.0, 0.0, step * number], **elements},
        )
        for number, pixels in enumerate(volume)
    ]


def write_frames(path: Path, slices: Sequence[FileDataset]) -> Path:
    """One enhanced multi-frame file of these slices, in this order: what is each one's own is in its functional group,
    the orientation and the spacing in the shared one.
    """
    data = copy.deepcopy(slices[0])
    shared, groups = Dataset(), []
    shared.PlaneOrientationSequence = [_moved(data, "ImageOrientationPatient")]
    shared.PixelMeasuresSequence = [_moved(data, "PixelSpacing", "SliceThickness")]
    for each in map(copy.deepcopy, slices):
        group = Dataset()
        group.PlanePositionSequence = [_moved(each, "ImagePositionPatient")]
        if "RescaleSlope" in each:
            group.PixelValueTransformationSequence = [_moved(each, "RescaleSlope", "RescaleIntercept")]
        groups.append(group)
    for name in ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept"):
        if name in data:
            del data[name]
    data.NumberOfFrames = len(slices)
    data.SharedFunctionalGroupsSequence = [shared]
    data.PerFrameFunctionalGroupsSequence = groups
    data.PixelData = b"".join(each.PixelData for each in slices)
    data.save_as(path, enforce_file_format=True)
    return path


def _moved(data: Dataset, *names: str) -> Dataset:
    """A macro with these elements, which are taken out of ``data``."""
    macro = Dataset()
    for name in names:
        macro[name] = data[name]
        del data[name]
    return macro


NIFTI_TYPES = {"u1": (2, 8), "i2": (4, 16), "i4": (8, 32), "f4": (16, 32), "f8": (64, 64), "u2": (512, 16)}


def nifti_bytes(
    voxels: NDArray[Any],
    *,
    zooms: Sequence[float] = (1.0, 1.0, 1.0),
    affine: NDArray[Any] | None = None,
    slope: float = 0.0,
    inter: float = 0.0,
    units: int = 2,
    order: str = "<",
) -> bytes:
    """A NIfTI-1 file written by hand, after nifti1.h: ``voxels`` (i, j, k…), the first index running fastest."""
    kind = voxels.dtype.str[1:]
    code, bits = NIFTI_TYPES[kind]
    shape = [voxels.ndim, *voxels.shape, *[1] * (7 - voxels.ndim)]
    pixdim = [1.0, *zooms, *[1.0] * (7 - len(zooms))]
    rows = np.zeros((3, 4)) if affine is None else affine[:3]
    header = struct.pack(f"{order}i35xB", 348, 0)
    header += struct.pack(f"{order}8h3f4h", *shape, 0, 0, 0, 0, code, bits, 0)
    header += struct.pack(f"{order}8f3fhBB4f2i", *pixdim, 352.0, slope, inter, 0, 0, units, 0, 0, 0, 0, 0, 0)
    header += struct.pack(f"{order}80s24s2h6f", CANARY.encode(), b"", 0, int(affine is not None), *[0.0] * 6)
    header += struct.pack(f"{order}12f16s4s", *rows.ravel(), CANARY.encode(), b"n+1\0")
    assert len(header) == 348
    return header + b"\0" * 4 + voxels.astype(f"{order}{kind}").tobytes(order="F")


def write_nifti(path: Path, voxels: NDArray[Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = nifti_bytes(voxels, **options)
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)
    return path


class GivenStudies:
    """A ``Source`` over folders that are there; ``hold`` is called with the accession id before each is given."""

    images_root = None
    state_dir = None
    in_flight = 4

    def __init__(self, root: Path, hold: Callable[[str], object] = lambda name: None) -> None:
        self._root = root
        self._hold = hold
        self.asked = 0
        self._lock = threading.Lock()

    def dataframe(self, project_id: str, query: str) -> pd.DataFrame:
        raise NotImplementedError

    def resources(self, project_id: str, accession_id: str, types: Sequence[ResourceType]) -> dict[ResourceType, Path]:
        self._hold(accession_id)
        with self._lock:
            self.asked += 1
        return dict.fromkeys(types, self._root / accession_id)

    def add_resource(
        self, project_id: str, accession_id: str, scan_id: str, resource_id: str, files: Sequence[str]
    ) -> None:
        raise NotImplementedError


def studies_of(
    root: Path,
    cohort: pd.DataFrame,
    *,
    hold: Callable[[str], object] = lambda name: None,
    derived_dir: Path | None = None,
    types: tuple[ResourceType, ...] = (ResourceType.ALL,),
) -> Studies:
    """The studies of ``cohort`` below ``root``, a folder each; those without one are skipped."""
    return fetch_studies(GivenStudies(root, hold), "project", cohort, types, max_skipped=1.0, derived_dir=derived_dir)


def small_cohort(count: int) -> pd.DataFrame:
    """``count`` studies of half as many patients, with an outcome, an age and a site."""
    return pd.DataFrame(
        {
            "accession_id": [f"{CANARY}-{number:05d}" for number in range(count)],
            "person_id": [number // 2 for number in range(count)],
            "malignant": [number % 3 == 0 for number in range(count)],
            "age": [40.5 + number for number in range(count)],
            "sex": ["F" if number % 2 else "M" for number in range(count)],
        }
    )


def nifti_studies(root: Path, count: int, shape: tuple[int, ...] = (3, 4, 5)) -> pd.DataFrame:
    """``count`` studies of a NIfTI image, whose voxels all have the study's number, and a segmentation each."""
    cohort = small_cohort(count)
    for number, name in enumerate(cohort["accession_id"]):
        write_nifti(root / name / "NIFTI" / "image.nii.gz", np.full(shape, number, dtype="i2"))
        write_nifti(root / name / "SEG" / "seg.nii.gz", np.full(shape, number % 2, dtype="u1"))
    return cohort
