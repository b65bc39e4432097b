"""What the header of one DICOM file says of its frames: a slice each, one for an ordinary file.

Of a multi-frame file each frame's place, spacing and rescale come from its own functional group, else from the shared
one (PS3.3 C.7.6.16), else from the file itself.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flip_fl.data.volumes import Problem, VolumeError, library, reading, size_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_PITCHES = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing")
_THICKNESSES = ("SpacingBetweenSlices", "SliceThickness")
_SHARED, _EACH = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"
_ORIENTATION, _PLACE = "ImageOrientationPatient", "ImagePositionPatient"
# Which macro of a functional group holds it.
_MACROS = {
    _ORIENTATION: "PlaneOrientationSequence",
    _PLACE: "PlanePositionSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    **dict.fromkeys((*_PITCHES, *_THICKNESSES), "PixelMeasuresSequence"),
}
# Nothing else is looked at in a file: names and dates of patients never are.
_TAGS = (
    *_PIXELS,
    *_PITCHES,
    *_THICKNESSES,
    _SHARED,
    _EACH,
    _ORIENTATION,
    _PLACE,
    "BitsAllocated",
    "BitsStored",
    "Columns",
    "DoseGridScaling",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "GridFrameOffsetVector",
    "HighBit",
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
# A header is read with what is smaller; larger values are passed over until they are asked for.
_HEADER_VALUE_BYTES = 1 << 16
_UNDEFINED_LENGTH = 0xFFFFFFFF
# Unit vectors are written with about six digits.
SAME_DIRECTION = 1e-2


@dataclass(frozen=True)
class Slice:
    """What the header says of one frame of a file. ``axes`` (2, 3): the directions of a row and of a column; ``data``:
    the file with its pixels, not yet decoded; ``rescale``: slope and intercept of this frame (None: the file's own).
    """

    path: str
    series: str
    shape: tuple[int, int]
    photometric: str
    pitch: tuple[float, ...] | None
    thickness: float | None
    position: Array | None
    axes: Array | None
    number: float | None
    frame: int
    frames: int
    rescale: tuple[float, float] | None
    data: Any

    def pixels(self) -> Any:
        """The frame's values (rows, columns), rescaled. Raises what pydicom raises."""
        pixels = library("pydicom.pixels", "DICOM files")
        index = self.frame if self.frames > 1 else None
        stored = pixels.pixel_array(self.data, index=index) if index is not None else self.data.pixel_array
        if self.rescale is None:
            return pixels.apply_modality_lut(stored, self.data)
        slope, intercept = self.rescale
        return stored * slope + intercept


def open_file(path: str, *, whole: bool) -> list[Slice]:
    """The frames of one file, in its order; with ``whole`` its pixels can be decoded. Raises ``VolumeError``."""
    pydicom = library("pydicom", "DICOM files")
    with reading(Problem.DAMAGED), open(path, "rb") as file:
        size = size_of(file)
        try:
            data = pydicom.dcmread(file, defer_size=None if whole else _HEADER_VALUE_BYTES, specific_tags=list(_TAGS))
        except pydicom.errors.InvalidDicomError:
            raise VolumeError(Problem.NO_DICOM) from None
        _check_pixels(data, size)
        return _frames(path, data, whole=whole)


def _frames(path: str, data: Any, *, whole: bool) -> list[Slice]:
    count = int(data.get("NumberOfFrames") or 1)
    shared = next(iter(data.get(_SHARED) or ()), None)
    each = list(data.get(_EACH) or ())
    if each and len(each) != count:
        raise VolumeError(Problem.DAMAGED)
    offsets = _offsets(data, count)
    found = []
    for frame in range(count):
        groups = [group for group in (each[frame] if each else None, shared) if group is not None]
        axes = _unit_axes(_of_frame(groups, data, _ORIENTATION, 6))
        # A file's own place is that of its first frame.
        place = _of_frame(groups, data if count == 1 or offsets else None, _PLACE, 3)
        position = _vector(place)
        if offsets and position is not None:
            import numpy as np

            position = position + offsets[frame] * np.cross(*axes) if axes is not None else None
        found.append(
            Slice(
                path=path,
                series=str(data.get("SeriesInstanceUID", "")),
                shape=(int(data.Rows), int(data.Columns)),
                photometric=str(data.PhotometricInterpretation),
                pitch=_first_positive(groups, data, _PITCHES, 2),
                thickness=next(iter(_first_positive(groups, data, _THICKNESSES, 1) or ()), None),
                position=position,
                axes=axes,
                number=next(iter(_numbers(data, "InstanceNumber", 1) or ()), None),
                frame=frame,
                frames=count,
                rescale=_rescale(groups, data),
                data=data if whole else None,
            )
        )
    return found


def _rescale(groups: Sequence[Any], data: Any) -> tuple[float, float] | None:
    """Of a frame, or of a dose (PS3.3 C.8.8.3: stored value × DoseGridScaling); None: as the file says for all."""
    slope, intercept = (_of_frame(groups, None, name, 1) for name in ("RescaleSlope", "RescaleIntercept"))
    if slope is not None and intercept is not None:
        return slope[0], intercept[0]
    dose = _positive(data, "DoseGridScaling", 1)
    return None if dose is None else (dose[0], 0.0)


def _offsets(data: Any, count: int) -> tuple[float, ...] | None:
    """How far the frames of a dose lie from its first along the normal, in mm (PS3.3 C.8.8.3.2)."""
    offsets = _numbers(data, "GridFrameOffsetVector", count) if count > 1 else None
    return offsets if offsets is not None and offsets[0] == 0 else None


def _check_pixels(data: Any, size: int) -> None:
    """Raises ``VolumeError`` for pixels that are not there whole, or that cannot be decoded."""
    pixels = library("pydicom.pixels", "DICOM files")
    if gdcm := sys.modules.get("gdcm"):
        # It would write to stderr by itself, and quote what it reads.
        gdcm.Trace.WarningOff()
        gdcm.Trace.ErrorOff()
    element = next((data.get_item(name, keep_deferred=True) for name in _PIXELS if name in data), None)
    if element is None:
        raise VolumeError(Problem.NO_PIXELS)
    syntax = data.file_meta.TransferSyntaxUID
    length = getattr(element, "length", _UNDEFINED_LENGTH)
    if length != _UNDEFINED_LENGTH and not syntax.is_deflated:
        there = size - element.value_tell if element.value is None else len(element.value)
        if there < length:
            raise VolumeError(Problem.CUT)
    if int(data.get("SamplesPerPixel", 1)) != 1 or not data.PhotometricInterpretation.startswith("MONOCHROME"):
        raise VolumeError(Problem.COLOUR)
    try:
        decodable = pixels.get_decoder(syntax).is_available
    except NotImplementedError:
        decodable = False
    if not decodable:
        raise VolumeError(Problem.NO_DECODER, syntax=str(syntax))


# -- numbers of a header --------------------------------------------------------------------------------------------


def _of_frame(groups: Sequence[Any], data: Any, name: str, count: int) -> tuple[float, ...] | None:
    """The numbers of ``name`` in the first functional group that has them, else in ``data``."""
    for group in groups:
        macro = next(iter(group.get(_MACROS[name]) or ()), None)
        if macro is not None and (found := _numbers(macro, name, count)) is not None:
            return found
    return None if data is None else _numbers(data, name, count)


def _first_positive(groups: Sequence[Any], data: Any, names: Sequence[str], count: int) -> tuple[float, ...] | None:
    for name in names:
        found = _of_frame(groups, data, name, count)
        if found is not None and min(found) > 0:
            return found
    return None


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


def _unit_axes(values: tuple[float, ...] | None) -> Array | None:
    """The two directions, (2, 3); None where they are no perpendicular unit vectors: some devices write zeros."""
    import numpy as np

    if values is None:
        return None
    axes = np.array(values).reshape(2, 3)
    return axes if np.allclose(axes @ axes.T, np.eye(2), atol=SAME_DIRECTION) else None
