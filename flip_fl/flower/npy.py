"""Flower's arrays read where they lie: a numpy array over the bytes that came, without a copy and without pickle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array

NUMPY = "numpy.ndarray"
# Real headers have 128 bytes; a header may not make the server parse a book.
MAX_HEADER_BYTES = 10_000
_MAGIC = b"\x93NUMPY"
_VERSIONS = frozenset({(1, 0), (2, 0), (3, 0)})


class NpyError(ValueError):
    """An array that cannot be read; the text goes on a sentence that begins with its name."""


@dataclass(frozen=True)
class Layout:
    """How an array lies in its bytes: the header as it stands there, and what it says."""

    header: bytes
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]

    # Worked out once: for each of the replies to one model it is the same.
    @cached_property
    def nbytes(self) -> int:
        """Bytes behind the header."""
        return self.dtype.itemsize * math.prod(self.shape)

    @cached_property
    def dtype_name(self) -> str:
        """As a Flower ``Array`` calls the dtype."""
        return str(self.dtype)


def layout_of(array: Array) -> Layout:
    """The layout of ``array``. Raises ``NpyError``."""
    if array.stype != NUMPY:
        raise NpyError("is not a numpy array")
    head = BytesIO(array.data[: MAX_HEADER_BYTES + 12])
    try:
        version = np.lib.format.read_magic(head)
        if version not in _VERSIONS:
            raise NpyError(f"is written in version {version[0]}.{version[1]} of the npy format, which there is not")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, TypeError, EOFError, SyntaxError, RecursionError, OverflowError) as error:
        raise error if isinstance(error, NpyError) else NpyError("cannot be read as an array") from error
    if dtype.hasobject or dtype.names is not None or dtype.subdtype is not None or any(size < 0 for size in shape):
        raise NpyError("does not hold plain numbers")
    return Layout(bytes(array.data[: head.tell()]), tuple(shape), bool(fortran), dtype)


def view(array: Array, like: Layout | None = None) -> np.ndarray[Any, Any]:
    """``array`` as numpy over the same bytes, read-only; ``like`` is a layout that it probably has.

    Raises ``NpyError``, also for a dtype or shape beside the bytes that is not theirs: strategies read either.
    """
    same = like is not None and array.stype == NUMPY and array.data.startswith(like.header)
    layout = like if like is not None and same else layout_of(array)
    if len(array.data) != len(layout.header) + layout.nbytes:
        raise NpyError("is cut off, or longer than it says")
    if array.dtype != layout.dtype_name or tuple(array.shape) != layout.shape:
        raise NpyError("has another dtype or shape than it says")
    try:
        if layout.nbytes == 0:
            return np.empty(layout.shape, layout.dtype)
        flat = np.frombuffer(array.data, layout.dtype, offset=len(layout.header))
        return flat.reshape(layout.shape, order="F" if layout.fortran else "C")
    except ValueError as error:
        raise NpyError("has a shape that numpy cannot have") from error


def payload_bytes(array: Array) -> int:
    """Bytes of ``array`` behind its header, counted from what came, not from what it says of itself. Never raises."""
    data = array.data
    if array.stype != NUMPY or not data.startswith(_MAGIC):
        return len(data)
    start, end = len(_MAGIC) + 2, len(_MAGIC) + (4 if data[len(_MAGIC) : len(_MAGIC) + 1] == b"\x01" else 6)
    return max(0, len(data) - end - int.from_bytes(data[start:end], "little"))
