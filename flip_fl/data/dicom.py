"""A DICOM series as one volume: its slices in order, and where they lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, Any

from flip_fl.data.volumes import Problem, Volume, VolumeError, library, reading, size_of
from flip_fl.values import natural_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PITCHES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_THICKNESSES = ("SpacingBetweenSlices", "SliceThickness")
# Nothing else is taken out of a file: names and dates of patients never are.
_TAGS = (
    *_PIXELS,
    *_PITCHES,
    *_THICKNESSES,
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "HighBit",
    "ImageOrientationPatient",
    "ImagePositionPatient",
    "InstanceNumber",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "PlanarConfiguration",
    "RescaleIntercept",
    "RescaleSlope",
    "Rows",
    "SamplesPerPixel",
    "SeriesInstanceUID",
)
# A header is read with what is smaller; larger pixels are passed over.
_HEADER_VALUE_BYTES = 1 << 16
_UNDEFINED_LENGTH = 0xFFFFFFFF
# Unit vectors are written with about six digits; a slice that is not there makes a gap of two.
_SAME_DIRECTION = 1e-2
_SAME_PLACE_MM = 1e-3
_WIDEST_GAP = 1.5


@dataclass(frozen=True)
class _Slice:
    """What the header of one file says. ``axes`` (2, 3): the directions of a row and of a column; ``data``: the file
    with its pixels, not yet decoded."""

    path: str
    series: str
    shape: tuple[int, int]
    photometric: str
    pitch: tuple[float, ...] | None
    thickness: float | None
    position: Array | None
    axes: Array | None
    number: float | None
    data: Any


def read_series(paths: Sequence[str]) -> Volume:
    """The files of one series, in any order, as (slice, row, column), or (row, column) of a single slice.

    Slices are sorted by position along the slices' normal (row direction × column direction); where a file has no
    position, by InstanceNumber, then by file name. Each slice's own rescale, or modality table, is applied.

    Raises ``VolumeError``, also for files of several series, for slices that are not parallel, lie at one place or
    leave out one, for several frames in a file and for colour; and ``FlipError`` E0509 without pydicom.
    """
    import numpy as np

    pixels = library("pydicom.pixels", "DICOM files")
    slices, affine, spacing = _layout([_open(path, whole=True) for path in paths])
    array = np.empty((len(slices), *slices[0].shape), dtype=np.float32)
    for number, each in enumerate(slices):
        with reading(Problem.DAMAGED):
            array[number] = pixels.apply_modality_lut(each.data.pixel_array, each.data)
        # Its raw pixels are not needed any more.
        slices[number] = replace(each, data=None)
    return Volume(array if len(slices) > 1 else array[0], affine, spacing, slices[0].photometric)


def check_series(paths: Sequence[str]) -> None:
    """Raises as ``read_series`` for what the headers and the lengths of the pixel data tell of."""
    _layout([_open(path, whole=False) for path in paths])


def _open(path: str, *, whole: bool) -> _Slice:
    pydicom = library("pydicom", "DICOM files")
    with reading(Problem.DAMAGED), open(path, "rb") as file:
        size = size_of(file)
        try:
            data = pydicom.dcmread(file, defer_size=None if whole else _HEADER_VALUE_BYTES, specific_tags=list(_TAGS))
        except pydicom.errors.InvalidDicomError:
            raise VolumeError(Problem.NO_DICOM) from None
        _check_pixels(data, size)
        axes = _numbers(data, "ImageOrientationPatient", 6)
        return _Slice(
            path=path,
            series=str(data.get("SeriesInstanceUID", "")),
            shape=(int(data.Rows), int(data.Columns)),
            photometric=str(data.PhotometricInterpretation),
            pitch=next((pitch for pitch in (_positive(data, name, 2) for name in _PITCHES) if pitch), None),
            thickness=next((gap[0] for gap in (_positive(data, name, 1) for name in _THICKNESSES) if gap), None),
            position=_vector(_numbers(data, "ImagePositionPatient", 3)),
            axes=None if axes is None else _unit_axes(axes),
            number=next(iter(_numbers(data, "InstanceNumber", 1) or ()), None),
            data=data if whole else None,
        )


def _check_pixels(data: Any, size: int) -> None:
    """Raises ``VolumeError`` for pixels that are not there whole, or that ``read_series`` cannot decode."""
    pixels = library("pydicom.pixels", "DICOM files")
    element = next((data.get_item(name, keep_deferred=True) for name in _PIXELS if name in data), None)
    if element is None:
        raise VolumeError(Problem.NO_PIXELS)
    syntax = data.file_meta.TransferSyntaxUID
    length = getattr(element, "length", _UNDEFINED_LENGTH)
    if length != _UNDEFINED_LENGTH and not syntax.is_deflated:
        there = size - element.value_tell if element.value is None else len(element.value)
        if there < length:
            raise VolumeError(Problem.CUT)
    if int(data.get("NumberOfFrames") or 1) > 1:
        raise VolumeError(Problem.FRAMES)
    if int(data.get("SamplesPerPixel", 1)) != 1 or not data.PhotometricInterpretation.startswith("MONOCHROME"):
        raise VolumeError(Problem.COLOUR)
    try:
        decodable = pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise VolumeError(Problem.NO_DECODER)


# -- where the slices lie -------------------------------------------------------------------------------------------


def _layout(slices: list[_Slice]) -> tuple[list[_Slice], Array, tuple[float, ...]]:
    """The slices in order, the affine of the array's axes, and the spacing along them.

    A pixel's place follows PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1): position + column index × column pitch ×
    direction of a row + row index × row pitch × direction of a column, in mm, LPS+. PixelSpacing gives the row pitch
    first (PS3.3 10.7.1.3). LPS+ becomes RAS+ by negating x and y: https://nipy.org/nibabel/dicom/dicom_orientation.html
    """
    import numpy as np

    first = slices[0]
    if any(each.series != first.series for each in slices):
        raise VolumeError(Problem.SERIES)
    row_pitch, column_pitch = first.pitch or (1.0, 1.0)
    for each in slices:
        if each.shape != first.shape or not np.allclose(each.pitch or (1.0, 1.0), (row_pitch, column_pitch), rtol=1e-3):
            raise VolumeError(Problem.SIZES)
    placed = all(each.position is not None and each.axes is not None for each in slices)
    if placed:
        slices, along_slices = _in_place(slices)
        row, column = _known(slices[0].axes)
        origin = _known(slices[0].position)
    else:
        slices = sorted(slices, key=_by_number)
        # Without a place in the patient the array's own axes, in mm, are all there is.
        axes = np.eye(3)
        along_slices, column, row = axes if len(slices) > 1 else (axes[2], axes[0], axes[1])
        along_slices = along_slices * (first.thickness or 1.0)
        origin = np.zeros(3)
    steps = [along_slices, column * row_pitch, row * column_pitch]
    if len(slices) == 1:
        steps = [*steps[1:], steps[0]]
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack(steps)
    affine[:3, 3] = origin
    if placed:
        affine[:2] *= -1
        affine += 0.0  # no -0.0
    spacing = tuple(float(np.linalg.norm(step)) for step in (steps if len(slices) > 1 else steps[:2]))
    return slices, affine, spacing


def _in_place(slices: list[_Slice]) -> tuple[list[_Slice], Array]:
    """Slices that all have a position, sorted along their normal, and the step from one to the next in mm."""
    import numpy as np

    axes = _known(slices[0].axes)
    if any(not np.allclose(_known(each.axes), axes, atol=_SAME_DIRECTION) for each in slices):
        raise VolumeError(Problem.TILTED)
    normal = np.cross(axes[0], axes[1])
    ordered = sorted(slices, key=lambda each: (float(_known(each.position) @ normal), *_by_number(each)))
    if len(ordered) == 1:
        return ordered, normal * (ordered[0].thickness or 1.0)
    places = [float(_known(each.position) @ normal) for each in ordered]
    gaps = [after - before for before, after in pairwise(places)]
    if min(gaps) < _SAME_PLACE_MM:
        raise VolumeError(Problem.SAME_PLACE)
    if max(gaps) > _WIDEST_GAP * median_low(gaps):
        raise VolumeError(Problem.GAPS)
    return ordered, (_known(ordered[-1].position) - _known(ordered[0].position)) / len(gaps)


def _by_number(each: _Slice) -> tuple[Any, ...]:
    number = each.number
    return (number is None, 0.0 if number is None else number, natural_key(each.path))


def _known(value: Array | None) -> Array:
    assert value is not None
    return value


# -- numbers of a header --------------------------------------------------------------------------------------------


def _numbers(data: Any, name: str, count: int) -> tuple[float, ...] | None:
    """The finite numbers of an element; None where it is absent, empty or no ``count`` numbers."""
    import numpy as np

    try:
        value = data.get(name)
        values = tuple(float(number) for number in (value if count > 1 else (value,)))
    except (TypeError, ValueError):
        return None
    return values if len(values) == count and np.isfinite(values).all() else None


def _positive(data: Any, name: str, count: int) -> tuple[float, ...] | None:
    values = _numbers(data, name, count)
    return values if values is not None and min(values) > 0 else None


def _vector(values: tuple[float, ...] | None) -> Array | None:
    import numpy as np

    return None if values is None else np.array(values)


def _unit_axes(values: tuple[float, ...]) -> Array | None:
    """The two directions, (2, 3); None where they are no perpendicular unit vectors: some devices write zeros."""
    import numpy as np

    axes = np.array(values).reshape(2, 3)
    return axes if np.allclose(axes @ axes.T, np.eye(2), atol=_SAME_DIRECTION) else None
