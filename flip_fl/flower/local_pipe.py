"""What goes over the socket between the grid and a site's process: frames of a length and that many bytes."""

from __future__ import annotations

import socket
import struct
from collections import deque

_LENGTH = struct.Struct(">Q")
# What says that it is longer is no frame of ours.
MAX_FRAME_BYTES = 2**36
_BUFFER_BYTES = 4 * 2**20


class BrokenFrame(Exception):
    """The other side sent something that is not a frame."""


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets with buffers that suit models."""
    pair = socket.socketpair()
    for end in pair:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, _BUFFER_BYTES)
    return pair


def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send ``data``, however long that takes. Raises ``OSError`` when the other side is gone."""
    connection.sendall(_LENGTH.pack(len(data)))
    connection.sendall(data)


def receive_frame(connection: socket.socket) -> bytearray | None:
    """The next frame, however long that takes; None when the other side has closed the connection."""
    reader = FrameReader(connection)
    while (frame := reader.read()) is None and not reader.closed:
        continue
    return frame


class FrameWriter:
    """Sends frames over a non-blocking socket, as much at a time as it takes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._rest: deque[memoryview] = deque()

    @property
    def idle(self) -> bool:
        return not self._rest

    def put(self, data: bytes) -> None:
        self._rest += [memoryview(_LENGTH.pack(len(data))), memoryview(data)]

    def write(self) -> None:
        """Send what can be sent without waiting. Raises ``OSError`` when the other side is gone."""
        while self._rest:
            try:
                sent = self._connection.send(self._rest[0])
            except BlockingIOError:
                return
            self._rest[0] = self._rest[0][sent:]
            if not self._rest[0]:
                self._rest.popleft()


class FrameReader:
    """Receives frames, from a blocking socket or a non-blocking one."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._head = True
        self._expect(_LENGTH.size)
        self.closed = False

    def read(self) -> bytearray | None:
        """A frame, or None: there is none yet, or ``closed``. Raises ``BrokenFrame`` for an absurd length."""
        while not self.closed:
            while self._filled < len(self._buffer):
                try:
                    count = self._connection.recv_into(memoryview(self._buffer)[self._filled :])
                except BlockingIOError:
                    return None
                except ConnectionError:
                    count = 0
                if count == 0:
                    self.closed = True
                    return None
                self._filled += count
            done = self._buffer
            self._head = not self._head
            if self._head:
                self._expect(_LENGTH.size)
                return done
            (length,) = _LENGTH.unpack(done)
            if length > MAX_FRAME_BYTES:
                raise BrokenFrame(f"a frame of {length} bytes")
            try:
                self._expect(length)
            except MemoryError:
                raise BrokenFrame(f"a frame of {length} bytes, for which there is no memory") from None
        return None

    def _expect(self, length: int) -> None:
        self._buffer = bytearray(length)
        self._filled = 0
