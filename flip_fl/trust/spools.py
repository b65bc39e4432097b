"""A cohort on its way out: rows come in, and when all are there a body of known length goes out.

Nothing is sent before the query has ended, so that a fault is a status and never half an answer, and a slow reader
keeps no transaction open. What does not fit into memory lies in a file without a name.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from flip_fl.trust import refusal
from flip_fl.trust.encode import arrow_values, json_values
from flip_fl.trust.selection import Kind, Row

if TYPE_CHECKING:
    import pyarrow as pa

JSON = "application/json"
ARROW_STREAM = "application/vnd.apache.arrow.stream"
_IN_MEMORY_BYTES = 16 << 20
_BLOCK_BYTES = 1 << 20
MAX_ANSWER_BYTES = 4 << 30


@dataclass(frozen=True)
class Body:
    """What is sent: ``length`` bytes in ``blocks``, which can be read once."""

    media_type: str
    length: int
    blocks: Iterator[bytes]


class Spool(Protocol):
    """Takes rows, gives the body."""

    def add(self, rows: Sequence[Row]) -> None:
        """Raises ``Refusal`` when the answer becomes too large."""
        ...

    def body(self) -> Body: ...

    def close(self) -> None: ...


class JsonSpool:
    """``{column: [values…]}``: each batch's part of a column is written behind the last, and they are sent in order."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._parts: list[list[tuple[int, int]]] = [[] for _ in names]
        self._file = _new_file()

    def add(self, rows: Sequence[Row]) -> None:
        for parts, values in zip(self._parts, zip(*rows, strict=True), strict=True):
            written = json_values(values)
            parts.append((self._file.tell(), len(written)))
            self._file.write(written)
        _bound(self._file)

    def body(self) -> Body:
        heads = [f"{',' if number else ''}{json.dumps(name)}:[".encode() for number, name in enumerate(self._names)]
        length = 2 + sum(len(head) + 1 for head in heads)
        length += sum(size for parts in self._parts for _, size in parts)
        length += sum(max(len(parts) - 1, 0) for parts in self._parts)
        return Body(JSON, length, self._blocks(heads))

    def _blocks(self, heads: Sequence[bytes]) -> Iterator[bytes]:
        block = bytearray(b"{")
        with self._file:
            for head, parts in zip(heads, self._parts, strict=True):
                block += head
                for number, (start, size) in enumerate(parts):
                    self._file.seek(start)
                    block += b"," if number else b""
                    block += self._file.read(size)
                    if len(block) >= _BLOCK_BYTES:
                        yield bytes(block)
                        block.clear()
                block += b"]"
            yield bytes(block + b"}")

    def close(self) -> None:
        self._file.close()


class ArrowSpool:
    """An Arrow IPC stream, a record batch for each batch of rows.

    Where only values tell what a column holds, a later batch may show that it holds something wider: then a new stream
    begins behind the last, and at the end all are written once more as one.
    """

    def __init__(self, names: Sequence[str], kinds: Sequence[Kind | None]) -> None:
        self._names = list(names)
        self._kinds = kinds
        self._file = _new_file()
        self._streams: list[tuple[int, pa.Schema]] = []
        self._writer: Any = None

    def add(self, rows: Sequence[Row]) -> None:
        import pyarrow as pa

        columns = zip(zip(*rows, strict=True), self._kinds, strict=True)
        batch = pa.record_batch([arrow_values(values, kind) for values, kind in columns], names=self._names)
        self._begin(batch.schema)
        self._writer.write_batch(batch)
        _bound(self._file)

    def body(self) -> Body:
        import pyarrow as pa

        if not self._streams:
            empty = [arrow_values([], kind) for kind in self._kinds]
            self._begin(pa.record_batch(empty, names=self._names).schema)
        self._end()
        if len(self._streams) > 1:
            self._unite()
        return Body(ARROW_STREAM, self._file.tell(), _blocks_of(self._file))

    def close(self) -> None:
        self._file.close()

    def _begin(self, schema: pa.Schema) -> None:
        import pyarrow as pa

        if self._streams and self._streams[-1][1] == schema:
            return
        self._end()
        self._streams.append((self._file.tell(), schema))
        self._writer = pa.ipc.new_stream(self._file, schema)

    def _end(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _unite(self) -> None:
        import pyarrow as pa

        schema = pa.schema(
            [
                (name, _widest([schema.field(place).type for _, schema in self._streams]))
                for place, name in enumerate(self._names)
            ]
        )
        with self._file as parts:
            self._file = _new_file()
            with pa.ipc.new_stream(self._file, schema) as writer:
                for start, _ in self._streams:
                    parts.seek(start)
                    with pa.ipc.open_stream(parts) as reader:
                        for batch in reader:
                            writer.write_batch(_cast(batch, schema))


def _cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    columns = [column.cast(field.type, safe=False) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.record_batch(columns, schema=schema)


def _widest(types: Sequence[pa.DataType]) -> pa.DataType:
    import pyarrow as pa

    found = {kind for kind in types if kind != pa.null()}
    if len(found) < 2:
        return found.pop() if found else pa.null()
    return pa.float64() if found == {pa.int64(), pa.float64()} else pa.string()


def _new_file() -> IO[bytes]:
    return tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)


def _bound(file: IO[bytes]) -> None:
    if file.tell() > MAX_ANSWER_BYTES:
        raise refusal.too_large()


def _blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        file.seek(0)
        while block := file.read(_BLOCK_BYTES):
            yield block
