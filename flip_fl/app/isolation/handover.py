"""A model from one process to another: in memory that both have, as safetensors lays it out. Nothing in it is ever run.

8 bytes length of the head (little-endian), the head as JSON (name → dtype, shape, data_offsets), the arrays' bytes:
https://huggingface.co/docs/safetensors. Written here and not by that library, which would copy every array twice and
sorts them by size; a model's order is its own.
"""

from __future__ import annotations

import fcntl
import json
import math
import mmap
import os
import stat
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from flip_fl.app.faults import BadFrame
from flip_fl.app.tensors import Arrays

MAX_HEAD_BYTES = 64 << 20
_LENGTH = struct.Struct("<Q")
_TYPES: Mapping[str, str] = {
    "BOOL": "|b1", "U8": "|u1", "I8": "|i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "C64": "<c8",
    # Not in the format, but in numpy.
    "C128": "<c16",
}  # fmt: skip
_CODES = {np.dtype(name): code for code, name in _TYPES.items()}
_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_MAX_AXES = 32


def put(arrays: Mapping[str, Any]) -> int:
    """Memory with ``arrays`` in their order, which nobody can change any more; the descriptor is the caller's.

    Raises ``OSError``, and ``BadFrame`` for a dtype that the format has not.
    """
    head: dict[str, Any] = {}
    members = []
    at = 0
    for name, given in arrays.items():
        array = np.asarray(given, order="C")
        code = _CODES.get(array.dtype.newbyteorder("<"))
        if code is None:
            raise BadFrame(f"'{name}' is {array.dtype}, which cannot be handed over")
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        head[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        members.append(array)
        at += array.nbytes
    text = json.dumps(head).encode()
    # The data begins where every dtype may.
    text += b" " * (-len(text) % 8)
    memory = os.memfd_create("flip-model", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        _write(memory, _LENGTH.pack(len(text)) + text)
        for array in members:
            _write(memory, array.reshape(-1).view(np.uint8).data)
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(memory)
        raise
    return memory


def take(memory: int, limit: int) -> Arrays:
    """What ``put`` has put there, without a copy; writing to the arrays changes this process's alone.

    ``limit``: how many bytes it may have. Closes the descriptor. Raises ``BadFrame`` for anything else.
    """
    try:
        whole = _mapped(memory, limit)
    except OSError:
        raise BadFrame("what it hands over is no model") from None
    finally:
        os.close(memory)
    (length,) = _LENGTH.unpack(whole[: _LENGTH.size])
    begin = _LENGTH.size + length
    if length > MAX_HEAD_BYTES or begin > len(whole):
        raise BadFrame("the head of what it hands over is larger than that")
    try:
        head = json.loads(whole[_LENGTH.size : begin])
    except (ValueError, RecursionError):
        raise BadFrame("the head of what it hands over is no JSON") from None
    if not isinstance(head, dict):
        raise BadFrame("the head of what it hands over is no object")
    arrays: Arrays = {}
    at = 0
    for name, told in head.items():
        dtype, shape = _described(told, at)
        count = math.prod(shape)
        if at + count * dtype.itemsize > len(whole) - begin:
            raise BadFrame("what it hands over ends before its arrays")
        array = np.frombuffer(whole, dtype, count, begin + at) if count else np.empty(0, dtype)
        arrays[name] = array.reshape(shape)
        at += count * dtype.itemsize
    return arrays


def of_bytes(blobs: Mapping[str, bytes]) -> Arrays:
    """``blobs`` as arrays, to be put."""
    return {name: np.frombuffer(blob, np.uint8) for name, blob in blobs.items()}


def to_bytes(arrays: Arrays) -> dict[str, bytes]:
    """What ``of_bytes`` was given."""
    return {name: array.tobytes() for name, array in arrays.items()}


def _described(told: Any, at: int) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape of an array that begins ``at``: each where the one before has ended."""
    facts: dict[str, Any] = told if isinstance(told, dict) else {}
    code, shape, offsets = facts.get("dtype"), facts.get("shape"), facts.get("data_offsets")
    if not isinstance(code, str) or code not in _TYPES:
        raise BadFrame("an array has no usable type")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise BadFrame("an array has no usable shape")
    if not all(type(size) is int and 0 <= size < 1 << 62 for size in shape):
        raise BadFrame("an array has no usable shape")
    dtype = np.dtype(_TYPES[code])
    # numpy refuses such a shape even where one of its axes is 0.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 1 << 62:
        raise BadFrame("an array has no usable shape")
    if offsets != [at, at + math.prod(shape) * dtype.itemsize]:
        raise BadFrame("an array does not lie where the one before has ended")
    return dtype, tuple(shape)


def _mapped(memory: int, limit: int) -> mmap.mmap:
    """The whole of it. Raises ``OSError`` for what is no such memory, ``BadFrame`` where it could still change."""
    if fcntl.fcntl(memory, fcntl.F_GET_SEALS) & _SEALS != _SEALS:
        raise BadFrame("what it hands over could still be changed")
    found = os.fstat(memory)
    if not stat.S_ISREG(found.st_mode) or found.st_size < _LENGTH.size:
        raise BadFrame("what it hands over is no model")
    if found.st_size > limit:
        raise BadFrame(f"what it hands over is larger than {limit} bytes")
    return mmap.mmap(memory, found.st_size, flags=mmap.MAP_PRIVATE)


def _write(memory: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(memory, view) :]
