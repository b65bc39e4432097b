"""What a server and the process of a ServerApp say to each other, as bytes: JSON, and behind it the arrays' data.

Never pickle: what comes from an app's process is made into plain values and Flower's records, or refused.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import Result

from flip_fl.flower.private import message_from_parts, message_to_parts

_LENGTH = struct.Struct(">Q")


def value_to_bytes(value: Any) -> bytes:
    """Numbers, texts, bytes, lists, tuples, dicts, numpy arrays, messages, and Flower's records and results of them.

    Data that occur several times, as one model in the messages to many nodes, are held once. Raises ``ValueError``
    for a value of any other type.
    """
    writer = _Writer()
    tree = json.dumps([writer.tree(value), [len(each) for each in writer.data]]).encode()
    return b"".join([_LENGTH.pack(len(tree)), tree, *writer.data])


def value_from_bytes(data: bytes | bytearray) -> Any:
    """What ``value_to_bytes`` made ``data`` of. Raises ``ValueError`` for anything else."""
    try:
        with memoryview(data) as view:
            (length,) = _LENGTH.unpack_from(view)
            place = _LENGTH.size + length
            tree, lengths = json.loads(bytes(view[_LENGTH.size : place]))
            blobs = []
            for each in lengths:
                if type(each) is not int or each < 0 or place + each > len(view):
                    raise ValueError("its data are cut off")
                blobs.append(bytes(view[place : place + each]))
                place += each
            if place != len(view):
                raise ValueError("there is more than its data")
        return _Reader(blobs).value(tree)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, struct.error, RecursionError) as error:
        raise ValueError(f"not a value: {type(error).__name__}") from error


class _Writer:
    def __init__(self) -> None:
        self.data: list[bytes] = []
        self._places: dict[int, int] = {}

    def tree(self, value: Any) -> Any:
        match value:
            case None | bool() | str():
                return value
            case np.generic():
                return {"scalar": [value.dtype.str, self._blob(value.tobytes())]}
            case int() | float():
                return value
            case bytes():
                return {"bytes": self._blob(value)}
            case np.ndarray():
                return {"numpy": [value.dtype.str, list(value.shape), self._blob(_plain(value).tobytes())]}
            case ArrayRecord():
                rows = ([name, a.dtype, list(a.shape), a.stype, self._blob(a.data)] for name, a in value.items())
                return {"arrays": list(rows)}
            case MetricRecord():
                return {"metrics": self._pairs(value)}
            case ConfigRecord():
                return {"config": self._pairs(value)}
            case RecordDict():
                return {"records": self._pairs(value)}
            case Message():
                head, data = message_to_parts(value)
                return {"message": [self._blob(head), [self._blob(each) for each in data]]}
            case Result():
                return {"result": self._pairs(vars(value))}
            case list():
                return [self.tree(each) for each in value]
            case tuple():
                return {"tuple": [self.tree(each) for each in value]}
            case Mapping():
                return {"map": self._pairs(value)}
        raise ValueError(f"a {type(value).__name__} has no form in which it could be sent")

    def _pairs(self, mapping: Mapping[Any, Any]) -> list[list[Any]]:
        return [[self.tree(name), self.tree(each)] for name, each in mapping.items()]

    def _blob(self, data: bytes) -> int:
        # They live until the frame is made: no other object gets the id of one meanwhile.
        place = self._places.setdefault(id(data), len(self.data))
        if place == len(self.data):
            self.data.append(data)
        return place


class _Reader:
    def __init__(self, blobs: list[bytes]) -> None:
        self._blobs = blobs

    def value(self, tree: Any) -> Any:
        if isinstance(tree, list):
            return [self.value(each) for each in tree]
        if not isinstance(tree, dict):
            return tree
        ((mark, held),) = tree.items()
        match mark:
            case "bytes":
                return self._blobs[held]
            case "scalar":
                return np.frombuffer(self._blobs[held[1]], np.dtype(held[0]))[0]
            case "numpy":
                return np.frombuffer(self._blobs[held[2]], np.dtype(held[0])).reshape(held[1]).copy()
            case "arrays":
                return ArrayRecord(
                    {name: Array(dtype, tuple(shape), kind, self._blobs[at]) for name, dtype, shape, kind, at in held}
                )
            case "metrics":
                return MetricRecord(self._mapping(held))
            case "config":
                return ConfigRecord(self._mapping(held))
            case "records":
                return RecordDict(self._mapping(held))
            case "message":
                head, places = held
                given = iter(places)
                return message_from_parts(self._blobs[head], lambda length: self._of_length(next(given, -1), length))
            case "result":
                return Result(**self._mapping(held))
            case "tuple":
                return tuple(self.value(each) for each in held)
            case "map":
                return self._mapping(held)
        raise ValueError(f"an unknown mark {mark!r}")

    def _mapping(self, pairs: Any) -> dict[Any, Any]:
        return {self.value(name): self.value(each) for name, each in pairs}

    def _of_length(self, place: int, length: int) -> bytes:
        if place < 0 or len(self._blobs[place]) != length:
            raise ValueError("its arrays are not those that it names")
        return self._blobs[place]


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.dtype.hasobject:
        raise ValueError("an array of objects has no form in which it could be sent")
    return array
