"""Messages between a site's process and a script's: a JSON head, then raw arrays. Nothing in them is ever run.

4 bytes mark, 4 bytes length of the head (big-endian), the head, and each array's bytes in C order
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flip_fl.app.faults import BadFrame
from flip_fl.app.tensors import Arrays

MAX_HEAD_BYTES = 8 << 20
MAX_ARRAYS = 100_000
_MAX_NAME_CHARS = 1_000
_MAX_AXES = 32
_MARK = b"FLS1"
_PREFIX = struct.Struct("!4sI")
_KINDS = "biufc"
_ARRAYS = "arrays"

Head = dict[str, Any]


def write_frame(channel: socket.socket, head: Mapping[str, Any], arrays: Mapping[str, Any] | None = None) -> None:
    """Send one message. Raises ``OSError`` when nobody takes it, ``BadFrame`` when its head is too large."""
    members = {name: np.asarray(array, order="C") for name, array in (arrays or {}).items()}
    told = [[name, array.dtype.str, list(array.shape)] for name, array in members.items()]
    text = json.dumps({**head, _ARRAYS: told}).encode()
    if len(text) > MAX_HEAD_BYTES:
        raise BadFrame(f"a message of more than {MAX_HEAD_BYTES >> 20} MiB beside its arrays")
    channel.sendall(_PREFIX.pack(_MARK, len(text)) + text)
    for array in members.values():
        if array.nbytes:
            channel.sendall(array.reshape(-1).view(np.uint8).data)


def read_frame(channel: socket.socket, limit: Callable[[], int]) -> tuple[Head, Arrays] | None:
    """The next message; None when the other side has closed between two. Raises ``BadFrame``.

    ``limit``: how many bytes of arrays it may have, asked when the message is there.
    """
    prefix = _read(channel, _PREFIX.size, begun=False)
    if prefix is None:
        return None
    mark, length = _PREFIX.unpack(prefix)
    if mark != _MARK:
        raise BadFrame("it does not begin as a message does")
    if length > MAX_HEAD_BYTES:
        raise BadFrame(f"its head is larger than {MAX_HEAD_BYTES >> 20} MiB")
    try:
        head = json.loads(bytes(_read(channel, length) or b""))
    except (ValueError, RecursionError):
        raise BadFrame("its head is no JSON") from None
    if not isinstance(head, dict):
        raise BadFrame("its head is no object")
    members = _members(head.pop(_ARRAYS, None), limit())
    arrays: Arrays = {}
    for name, (dtype, shape) in members.items():
        array = np.empty(shape, dtype)
        if array.nbytes:
            _fill(channel, array.reshape(-1).view(np.uint8).data)
        arrays[name] = array
    return head, arrays


def _members(told: Any, limit: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    if not isinstance(told, list) or len(told) > MAX_ARRAYS:
        raise BadFrame("its arrays are not described")
    members: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    total = 0
    for each in told:
        name, dtype, shape = _member(each)
        total += dtype.itemsize * math.prod(shape)
        if total > limit:
            raise BadFrame(f"its arrays are larger than {limit} bytes")
        if name in members:
            raise BadFrame("two of its arrays have one name")
        members[name] = dtype, shape
    return members


def _member(told: Any) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    if not isinstance(told, list) or len(told) != 3:
        raise BadFrame("an array is not described")
    name, code, shape = told
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARS or not isinstance(code, str):
        raise BadFrame("an array has no usable name")
    if not isinstance(shape, list) or len(shape) > _MAX_AXES:
        raise BadFrame("an array has no usable shape")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        raise BadFrame("an array has no usable shape")
    try:
        dtype = np.dtype(code)
    except (TypeError, ValueError, SyntaxError):
        raise BadFrame("an array has no usable type") from None
    if dtype.kind not in _KINDS or dtype.hasobject:
        raise BadFrame("an array has no usable type")
    # numpy refuses such a shape even where one of its axes is 0.
    if math.prod(max(size, 1) for size in shape) * dtype.itemsize >= 1 << 62:
        raise BadFrame("an array has no usable shape or is larger than any model")
    return name, dtype, tuple(shape)


def _read(channel: socket.socket, size: int, *, begun: bool = True) -> bytearray | None:
    data = bytearray(size)
    return data if _fill(channel, memoryview(data), begun=begun) else None


def _fill(channel: socket.socket, view: memoryview, *, begun: bool = True) -> bool:
    """Fill ``view``; False when the other side has closed before the first byte of a message."""
    at = 0
    while at < len(view):
        try:
            got = channel.recv_into(view[at:])
        except ConnectionError:
            got = 0
        if not got:
            if begun or at:
                raise BadFrame("it ends in the middle")
            return False
        at += got
    return True
