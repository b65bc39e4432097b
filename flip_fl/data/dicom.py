"""A DICOM series as one volume: its slices in order, and where they lie in the patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median_low
from typing import TYPE_CHECKING, Any

from flip_fl.data.dicom_frames import SAME_DIRECTION, Slice, open_file
from flip_fl.data.volumes import Problem, Volume, VolumeError, reading
from flip_fl.values import natural_key

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_SAME_PLACE_MM = 1e-3
_WIDEST_GAP = 1.5


def read_series(paths: Sequence[str]) -> Volume:
    """The files of one series, in any order, as (slice, row, column), or (row, column) of a single slice. The frames of
    a file are slices.

    Slices are sorted by position along the slices' normal (row direction × column direction); where a file has no
    position, by InstanceNumber, then by file name and frame. Each slice's own rescale, or modality table, is applied.

    Raises ``VolumeError``, also for files of several series, for slices that are not parallel, lie at one place or
    leave out one, and for colour; and ``FlipError`` E0509 without pydicom.
    """
    import numpy as np

    slices, affine, spacing = _layout([each for path in paths for each in open_file(path, whole=True)])
    array = np.empty((len(slices), *slices[0].shape), dtype=np.float32)
    for number, each in enumerate(slices):
        with reading(Problem.DAMAGED):
            array[number] = each.pixels()
        # Its raw pixels are not needed any more.
        slices[number] = replace(each, data=None)
    return Volume(array if len(slices) > 1 else array[0], affine, spacing, slices[0].photometric)


def check_series(paths: Sequence[str]) -> None:
    """Raises as ``read_series`` for what the headers and the lengths of the pixel data tell of."""
    _layout([each for path in paths for each in open_file(path, whole=False)])


# -- where the slices lie -------------------------------------------------------------------------------------------


def _layout(slices: list[Slice]) -> tuple[list[Slice], Array, tuple[float, ...]]:
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


def _in_place(slices: list[Slice]) -> tuple[list[Slice], Array]:
    """Slices that all have a position, sorted along their normal, and the step from one to the next in mm."""
    import numpy as np

    axes = _known(slices[0].axes)
    if any(not np.allclose(_known(each.axes), axes, atol=SAME_DIRECTION) for each in slices):
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


def _by_number(each: Slice) -> tuple[Any, ...]:
    number = each.number
    return (number is None, 0.0 if number is None else number, natural_key(each.path), each.frame)


def _known(value: Array | None) -> Array:
    assert value is not None
    return value
