"""A cohort as it crosses the wire: column-oriented JSON, or an Arrow IPC stream; never more in memory than it takes."""

from __future__ import annotations

import importlib.util
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from flip_fl.data.cohort import ACCESSION_ID
from flip_fl.http import HttpConnectionError

if TYPE_CHECKING:
    import pandas as pd

ARROW_STREAM = "application/vnd.apache.arrow.stream"
JSON = "application/json"
BLOCK_BYTES = 1 << 20
# Everything of an array up to the bracket that ends it; each byte is looked at once (the quantifiers are possessive).
_INSIDE_ARRAY = re.compile(rb'(?:[^"\]]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)
_BLANK = b" \t\r\n"
# Apache Arrow columnar format, "IPC Streaming Format": a continuation marker and a length of zero.
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def accepted() -> str:
    """The ``Accept`` header: Arrow first, where pyarrow can read it."""
    return f"{ARROW_STREAM}, {JSON};q=0.5" if importlib.util.find_spec("pyarrow") is not None else JSON


def read_table(body: io.RawIOBase, content_type: str) -> pd.DataFrame:
    """The table in ``body``; ``accession_id`` is text. Raises ``ValueError``, without a value, for what is no table."""
    frame = _read_arrow(body) if content_type == ARROW_STREAM else _read_json(body)
    if ACCESSION_ID in frame.columns:
        frame[ACCESSION_ID] = _as_text(frame[ACCESSION_ID])
    return frame


def _read_arrow(body: io.RawIOBase) -> pd.DataFrame:
    import pyarrow as pa

    counted = _Tail(body)
    buffered = io.BufferedReader(counted, BLOCK_BYTES)
    try:
        with pa.ipc.open_stream(buffered) as stream:
            table = stream.read_all()
    except HttpConnectionError:
        raise
    except (pa.ArrowException, EOFError, OSError):
        raise ValueError("no Arrow stream") from None
    # pyarrow takes the end of the body for the end of the stream: a cut between two batches would go unnoticed.
    if buffered.read() or counted.tail != _END_OF_STREAM:
        raise ValueError("no Arrow stream: it has no end")
    # Each Arrow column is freed as soon as its pandas column is made.
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True, date_as_object=False)
    return frame


def _read_json(body: io.RawIOBase) -> pd.DataFrame:
    import pandas as pd

    columns = {name: _series(values) for name, values in _Columns(body)}
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("its columns differ in length")
    # Without a copy: a consolidated frame would hold every number twice while it is made.
    return pd.DataFrame(columns, copy=False)


def _series(values: list[Any]) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    # What pandas would make of them, without looking at each value twice.
    kinds = set(map(type, values))
    if kinds == {int, float} or kinds == {float}:
        return pd.Series(np.array(values, dtype=np.float64))
    return pd.Series(values)


class _Tail(io.RawIOBase):
    """``body``, and the last bytes that were read of it."""

    def __init__(self, body: io.RawIOBase) -> None:
        self._body = body
        self.tail = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._body.read(len(buffer)) or b""
        buffer[: len(block)] = block
        self.tail = (self.tail + block[-len(_END_OF_STREAM) :])[-len(_END_OF_STREAM) :]
        return len(block)


class _Columns:
    """The members of one JSON object of arrays, parsed one at a time: the text and objects of the last are gone then.

    Raises ``ValueError`` for anything else, a body that ends early included.
    """

    def __init__(self, body: io.RawIOBase) -> None:
        self._body = body
        self._text = bytearray()
        self._at = 0

    def __iter__(self) -> Iterator[tuple[str, list[Any]]]:
        self._expect(b"{")
        following = self._next()
        while following != b"}":
            name = from_json(self._string())
            self._expect(b":")
            if self._next() != b"[":
                raise ValueError("a table is an object of arrays")
            values = from_json(self._array(), cache_strings="none")
            yield name, values
            del values
            following = self._next()
            if following == b",":
                self._at += 1
                following = self._next()
                if following != b'"':
                    raise ValueError("a member has no name")
            elif following != b"}":
                raise ValueError("it is no object of arrays")
        self._at += 1
        if self._next(ended=True):
            raise ValueError("there is more than one object")

    def _next(self, *, ended: bool = False) -> bytes:
        """The next byte that is no blank, which stays; empty at the end of the body where that is due."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text):
                return bytes(self._text[self._at : self._at + 1])
            if not self._more():
                if ended:
                    return b""
                raise ValueError("it ends early")

    def _expect(self, byte: bytes) -> None:
        if self._next() != byte:
            raise ValueError("it is no object of arrays")
        self._at += 1

    def _string(self) -> bytes:
        """The string that begins here, with its quotes."""
        if self._next() != b'"':
            raise ValueError("a member has no name")
        end = self._at + 1
        while True:
            end = self._text.find(b'"', end)
            if end < 0:
                end = len(self._text)
                if not self._more():
                    raise ValueError("it ends early")
            elif _escaped(self._text, end):
                end += 1
            else:
                return self._take(end + 1)

    def _array(self) -> bytes:
        """The array that begins here, with its brackets."""
        end, texts = self._at + 1, False
        while True:
            bracket = self._text.find(b"]", end)
            until = bracket if bracket >= 0 else len(self._text)
            if texts or self._text.find(b'"', end, until) >= 0:
                # A bracket may belong to a text.
                texts = True
                match = _INSIDE_ARRAY.match(self._text, end)
                until = end if match is None else match.end()
                # A match holds on to the text, which could not grow.
                del match
            if self._text[until : until + 1] == b"]":
                return self._take(until + 1)
            end = until
            if not self._more():
                raise ValueError("it ends early")

    def _take(self, end: int) -> bytes:
        taken = bytes(self._text[self._at : end])
        del self._text[:end]
        self._at = 0
        return taken

    def _more(self) -> bool:
        block = self._body.read(BLOCK_BYTES)
        self._text += block or b""
        return bool(block)


def _escaped(text: bytearray, quote: int) -> bool:
    """Whether the quote at this place belongs to its string: an odd number of backslashes stands before it."""
    slashes = 0
    while text[quote - 1 - slashes] == ord("\\"):
        slashes += 1
    return slashes % 2 == 1


def _as_text(column: pd.Series[Any]) -> pd.Series[Any]:
    """Accession numbers as text, also from a service that types them as numbers and has lost leading zeros."""
    from pandas.api.types import is_float_dtype, is_integer_dtype, is_object_dtype

    if is_integer_dtype(column.dtype):
        return column.astype(str)
    if is_float_dtype(column.dtype):
        # Whole numbers beside missing ones.
        return column.map(
            lambda value: str(int(value)) if float(value).is_integer() else str(value), na_action="ignore"
        )
    if is_object_dtype(column.dtype):
        return column.map(lambda value: str(value) if isinstance(value, int) else value, na_action="ignore")
    return column
