"""Images as they are stored: DICOM series through pydicom, NIfTI through nibabel. Nothing is transposed or flipped.

Array axes: a DICOM series is (slice, row, column), a single slice (row, column); a NIfTI file is (i, j, k) or
(i, j, k, t). DICOM's modality transformation (rescale) and NIfTI's scl_slope and scl_inter are applied.

Whatever is wrong with a file is a ``VolumeError`` of one of the fixed ``Problem`` sentences: what the libraries say
quotes paths and values, so it is neither chained nor logged.
"""

from __future__ import annotations

import gzip
import importlib
import logging
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from flip_fl.errors import FlipError
from flip_fl.values import ResourceType

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_IN_MM = {"meter": 1000.0, "micron": 0.001}
# Deflate cannot do better: a header that promises more than this is a corrupt one.
_BEST_COMPRESSION = 1032
_BLOCK_BYTES = 1 << 20
# How large the header says that it is, in its first four bytes.
_NIFTI_SIZES = {348: "Nifti1Image", 540: "Nifti2Image"}
_READERS = {ResourceType.DICOM: "pydicom.pixels", ResourceType.NIFTI: "nibabel"}


class Problem(StrEnum):
    """Why a study cannot be read, in words that follow "cannot be read: "."""

    GONE = "a file is not there any more"
    NOT_OPENED = "a file cannot be opened"
    EMPTY = "a file is empty"
    NO_DICOM = "a file is neither DICOM nor NIfTI"
    NO_NIFTI = "a file is called NIfTI and does not begin as one"
    CUT = "a file is cut short"
    DAMAGED = "a file is damaged"
    NO_PIXELS = "a DICOM file has no pixel data, or ends before it"
    NO_DECODER = "its pixels are compressed, and no decoder for them is installed"
    COLOUR = "a DICOM file is in colour, which is not supported"
    KIND = "its voxels are no plain numbers, or it has more than four dimensions"
    SERIES = "its DICOM files are of several series"
    SIZES = "its slices have different sizes"
    TILTED = "its slices are not parallel"
    SAME_PLACE = "several slices are at one position"
    GAPS = "a slice is missing, or slices are unevenly spaced"

    @property
    def suggestion(self) -> str:
        """What can be done about it."""
        return _SUGGESTIONS.get(self, "data.readable() leaves such studies out and counts them")


_NARROW = "narrow the pattern to the files of one series, for instance with a folder's name"
_SUGGESTIONS = {
    Problem.NO_DECODER: "pip install 'flip_fl[imaging]', which brings python-gdcm; or decompress the files",
    Problem.SERIES: _NARROW,
    Problem.SIZES: _NARROW,
    Problem.TILTED: _NARROW,
    Problem.SAME_PLACE: _NARROW,
}


class VolumeError(Exception):
    """An image that cannot be read. The text is a fixed sentence: no path, no value. ``syntax``: the UID of the
    compression for which there is no decoder."""

    def __init__(self, problem: Problem, *, syntax: str = "") -> None:
        super().__init__(problem.value)
        self.problem = problem
        self.syntax = syntax


@dataclass(frozen=True, eq=False)
class Volume:
    """One image.

    ``array`` is float32. ``affine`` (4, 4) maps an index of the array's axes to mm in RAS+ (right, anterior,
    superior): of (slice, row, column) for a series, of (row, column, 0) for a single slice, of (i, j, k) for NIfTI.
    ``spacing`` is in mm, one number for each axis in space. Where the file says nothing of its place, the affine is
    the spacing alone; where it says nothing of the spacing, that is 1.0.

    ``photometric`` is DICOM's photometric interpretation. Values are not inverted for ``MONOCHROME1`` (low is bright,
    as in many radiographs): that is a matter of display, and ``prepare`` can do it where a model needs it.
    """

    array: NDArray[np.float32] = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False)
    spacing: tuple[float, ...]
    photometric: str = ""


def compression(syntax: str) -> str:
    """What the standard calls a transfer syntax; a UID that it does not know may be anything, and is not repeated."""
    known = library("pydicom.uid", "DICOM files").UID_dictionary.get(syntax)
    return f"{known[0]}, {syntax}" if known is not None else "one that the standard does not know"


def is_nifti(path: str) -> bool:
    """Whether a file is NIfTI by its name; every other file is taken for DICOM, which often has no suffix."""
    return path.lower().endswith((".nii", ".nii.gz"))


def read_volume(paths: Sequence[str]) -> Volume:
    """The image in one NIfTI file, or in the DICOM files of one series, in any order.

    Slices are sorted by their position along the normal, else by InstanceNumber, else by file name. Raises
    ``VolumeError``, and ``FlipError`` E0509 without pydicom or nibabel.
    """
    if is_nifti(paths[0]):
        return _read_nifti(paths[0])
    from flip_fl.data.dicom import read_series

    return read_series(paths)


def check_volume(paths: Sequence[str]) -> None:
    """Raises as ``read_volume`` for what headers and sizes tell of: pixels are neither decoded nor, mostly, read.

    Damage inside the pixels themselves passes.
    """
    if not is_nifti(paths[0]):
        from flip_fl.data.dicom import check_series

        return check_series(paths)
    return _check_nifti(paths[0])


# -- what both readers share ----------------------------------------------------------------------------------------


def library(name: str, files: str) -> Any:
    """The module ``name``, imported now. Raises ``FlipError`` E0509 where it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise FlipError(
            "E0509",
            part=name.partition(".")[0],
            needed_for=f"{files} are read with it",
            requirement="flip_fl[imaging]",
        ) from None


def import_readers(types: Sequence[ResourceType]) -> None:
    """Import what files of ``types`` are read with, where it is installed.

    Beside a fetch's threads the same imports take seven times as long: every file of a module is a turn at the
    interpreter's lock.
    """
    for resource_type, name in _READERS.items():
        if resource_type in types or ResourceType.ALL in types:
            with suppress(ImportError):
                importlib.import_module(name)


@contextmanager
def reading(otherwise: Problem) -> Iterator[None]:
    """Whatever a library raises becomes a ``VolumeError``, ``otherwise`` where nothing better is known."""
    with _QUIET:
        try:
            yield
        except (VolumeError, FlipError, MemoryError):
            raise
        except FileNotFoundError:
            raise VolumeError(Problem.GONE) from None
        except EOFError:
            raise VolumeError(Problem.CUT) from None
        except OSError as error:
            # Without a number it is a library's own, about the content.
            raise VolumeError(otherwise if error.errno is None else Problem.NOT_OPENED) from None
        except Exception:
            raise VolumeError(otherwise) from None


def size_of(file: BinaryIO) -> int:
    """How many bytes the open file has. Raises ``VolumeError`` for none."""
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise VolumeError(Problem.EMPTY)
    return size


class _Quiet:
    """While any thread is inside, nothing is warned or logged by the readers: their words quote values and paths.

    Python's filters of warnings are the process's, so the first to come in sets them and the last to leave undoes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._undo = ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                for name in ("pydicom", "pylibjpeg", "nibabel.global"):
                    logger = logging.getLogger(name)
                    self._undo.callback(setattr, logger, "disabled", logger.disabled)
                    logger.disabled = True

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._undo.close()


_QUIET = _Quiet()


# -- NIfTI ----------------------------------------------------------------------------------------------------------


def _read_nifti(path: str) -> Volume:
    import numpy as np

    with _unpacked(path) as stream:
        image, _ = _nifti_header(stream, path)
        with reading(Problem.DAMAGED):
            array = np.asarray(image.dataobj, dtype=np.float32)
            if _is_gzip(path):
                # The checksum stands at the end, and is compared there.
                _length(stream)
            scale = _IN_MM.get(image.header.get_xyzt_units()[0], 1.0)
            spacing = tuple(abs(float(zoom)) * scale for zoom in image.header.get_zooms()[:3])
            affine = np.array(image.affine, dtype=np.float64)
            affine[:3] *= scale
            return Volume(array, affine, spacing)


def _check_nifti(path: str) -> None:
    with _unpacked(path) as stream:
        _, expected = _nifti_header(stream, path)
        with reading(Problem.DAMAGED):
            if _is_gzip(path) and _gzip_length(path) != expected % 2**32:
                # In one with several members the length at the end is the last one's alone.
                stream.seek(0)
                if _length(stream) < expected:
                    raise VolumeError(Problem.CUT)


@contextmanager
def _unpacked(path: str) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed on the way where it is compressed."""
    with ExitStack() as stack:
        with reading(Problem.NO_NIFTI):
            file = stack.enter_context(open(path, "rb"))
            size_of(file)
            stream = stack.enter_context(gzip.GzipFile(fileobj=file)) if _is_gzip(path) else file
        yield cast(BinaryIO, stream)


def _nifti_header(stream: BinaryIO, path: str) -> tuple[Any, int]:
    """The image, its voxels not yet read, and how many bytes it must have."""
    nibabel = library("nibabel", "NIfTI files")
    with reading(Problem.NO_NIFTI):
        start = stream.read(4)
        stream.seek(0)
        kind = _NIFTI_SIZES.get(int.from_bytes(start, "little"), _NIFTI_SIZES.get(int.from_bytes(start, "big")))
        if kind is None:
            raise VolumeError(Problem.NO_NIFTI)
        files = {"image": nibabel.fileholders.FileHolder(fileobj=stream)}
        # Not mapped: a mapped file that shrinks meanwhile would kill the process.
        image = getattr(nibabel, kind).from_file_map(files, mmap=False)
        stored = image.dataobj
        if stored.dtype.kind not in "iuf" or not 1 <= len(stored.shape) <= 4 or 0 in stored.shape:
            raise VolumeError(Problem.KIND)
        expected = stored.offset + math.prod(stored.shape) * stored.dtype.itemsize
        if expected > os.stat(path).st_size * (_BEST_COMPRESSION if _is_gzip(path) else 1):
            raise VolumeError(Problem.CUT)
        return image, expected


def _is_gzip(path: str) -> bool:
    return path.lower().endswith(".gz")


def _gzip_length(path: str) -> int:
    """What a compressed file says at its end that comes out of it, modulo 2^32."""
    with open(path, "rb") as file:
        file.seek(-4, os.SEEK_END)
        return int.from_bytes(file.read(4), "little")


def _length(stream: BinaryIO) -> int:
    """How much more comes, read block by block."""
    return sum(len(block) for block in iter(lambda: stream.read(_BLOCK_BYTES), b""))
