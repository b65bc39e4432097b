"""A stream cut into parts of equal size that are sent several at a time, in a fixed number of buffers."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from flip_fl.results.lanes import POLL_S, Lane, settled

Check = Callable[[], Any]
# How long parts that are under way are waited for, and then the store's word that it has dropped them.
GRACE_S = 5.0
AHEAD = 4


@dataclass(frozen=True)
class Part:
    """A part of the stream; ``body`` must not change before it was sent and ``hashed``."""

    body: bytearray
    hashed: Future[None]


class Buffers:
    """``count`` buffers of ``size`` bytes, made when they are first wanted."""

    def __init__(self, count: int, size: int) -> None:
        self._free: SimpleQueue[bytearray] = SimpleQueue()
        self._left = count
        self._size = size

    def take(self, check: Check) -> bytearray:
        """A free one, waited for."""
        while True:
            try:
                return self._free.get(timeout=0.0 if self._left else POLL_S)
            except Empty:
                if self._left:
                    self._left -= 1
                    return bytearray(self._size)
                check()

    def give(self, buffer: bytearray) -> None:
        self._free.put(buffer)


class Digest:
    """The SHA-256 of a stream and its length, computed beside whoever sends it."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._sha256 = hashlib.sha256()
        self._ahead: deque[Future[None]] = deque()
        self.size_bytes = 0

    def update(self, piece: bytes | bytearray) -> Future[None]:
        """Go on with ``piece``, which must not change before the future is done. At most AHEAD pieces wait."""
        if len(self._ahead) == AHEAD:
            self._ahead.popleft().result()
        self.size_bytes += len(piece)
        self._ahead.append(self._lane.submit(self._sha256.update, piece))
        return self._ahead[-1]

    def hexdigest(self) -> str:
        """The digest of all that was given."""
        return self._lane.submit(self._sha256.hexdigest).result()


def cut(chunks: Iterable[bytes], buffers: Buffers, digest: Digest, check: Check) -> Iterator[Part]:
    """The parts of ``chunks``, all of one length but the last; each body goes back to ``buffers`` when it is sent."""
    buffer, filled = buffers.take(check), 0
    for chunk in chunks:
        given = memoryview(chunk)
        while given:
            room = min(len(buffer) - filled, len(given))
            buffer[filled : filled + room] = given[:room]
            filled, given = filled + room, given[room:]
            if filled == len(buffer):
                yield Part(buffer, digest.update(buffer))
                buffer, filled = buffers.take(check), 0
    if filled:
        del buffer[filled:]
        yield Part(buffer, digest.update(buffer))


class PartsUpload:
    """An upload in parts that leaves nothing behind unless ``complete`` was reached.

    ``client`` is boto3's, ``where`` its Bucket and Key.
    """

    def __init__(self, client: Any, where: dict[str, str], buffers: Buffers, lane: Lane, check: Check) -> None:
        self._client = client
        self._where = where
        self._buffers = buffers
        self._lane = lane
        self._check = check
        self._sent: list[Future[str]] = []
        self._failed: BaseException | None = None
        self._given_up = False
        self._done = False

    def __enter__(self) -> PartsUpload:
        return self

    def begin(self, **facts: Any) -> None:
        """Open the upload; ``facts`` are those of the object."""
        started = self._lane.submit(self._client.create_multipart_upload, **self._where, **facts)
        self._where = {**self._where, "UploadId": settled(started, self._check)["UploadId"]}

    def add(self, part: Part) -> None:
        """Send ``part`` beside others. Raises what an earlier one has raised."""
        if self._failed is not None:
            raise self._failed
        self._sent.append(self._lane.submit(self._send, len(self._sent) + 1, part))

    def complete(self, **facts: Any) -> None:
        """Wait for all parts and make them one object."""
        etags = [settled(future, self._check) for future in self._sent]
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, start=1)]
        request = {**self._where, "MultipartUpload": {"Parts": parts}, **facts}
        settled(self._lane.submit(self._client.complete_multipart_upload, **request), self._check)
        self._done = True

    def _send(self, number: int, part: Part) -> str:
        try:
            if self._given_up:
                return ""
            answer = self._client.upload_part(**self._where, PartNumber=number, Body=part.body)
            return str(answer["ETag"])
        except BaseException as error:
            self._failed = error
            raise
        finally:
            part.hashed.result()
            self._buffers.give(part.body)

    def __exit__(self, *exc_info: object) -> None:
        if self._done or "UploadId" not in self._where:
            return
        self._given_up = True
        # A part that arrives later than its end would stay, and be paid for.
        wait(self._sent, timeout=GRACE_S)
        dropped = self._lane.submit(self._client.abort_multipart_upload, **self._where)
        with suppress(Exception):  # the reason why it is dropped is what counts
            dropped.result(timeout=GRACE_S)
