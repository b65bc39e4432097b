"""Messages between a guest and the process it works for: a JSON object, and descriptors that go with it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flip_fl.app.faults import BadFrame

MAX_BYTES = 64 << 20
MAX_DESCRIPTORS = 3
_LENGTH = struct.Struct("!I")


@dataclass
class Said:
    """One message; ``descriptors`` are the reader's to close."""

    head: dict[str, Any]
    descriptors: list[int] = field(default_factory=list)

    def close(self) -> None:
        """Close what nobody has taken."""
        while self.descriptors:
            os.close(self.descriptors.pop())


class Channel:
    """One end of the way between the two. ``say`` from any thread, ``read`` from one."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream = stream
        self._saying = threading.Lock()

    def say(self, head: Mapping[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send, with copies of ``descriptors``. Raises ``OSError`` when nobody takes it, ``BadFrame``: too large."""
        text = json.dumps(head).encode()
        if len(text) > MAX_BYTES:
            raise BadFrame(f"a message of more than {MAX_BYTES >> 20} MiB")
        with self._saying:
            # The descriptors go with the length, which arrives whole.
            socket.send_fds(self._stream, [_LENGTH.pack(len(text))], list(descriptors))
            self._stream.sendall(text)

    def read(self, timeout_s: float | None = None) -> Said | None:
        """The next message; None when the other side has closed between two.

        Raises ``BadFrame``, and ``OSError``, ``TimeoutError`` where none has come in ``timeout_s``.
        """
        self._stream.settimeout(timeout_s)
        try:
            return self._read()
        finally:
            with contextlib.suppress(OSError):
                self._stream.settimeout(None)

    def _read(self) -> Said | None:
        try:
            prefix, descriptors, _, _ = socket.recv_fds(self._stream, _LENGTH.size, MAX_DESCRIPTORS)
        except ConnectionError:
            return None
        said = Said({}, list(descriptors))
        try:
            if not prefix:
                return None
            if len(prefix) != _LENGTH.size:
                raise BadFrame("it ends in the middle")
            (length,) = _LENGTH.unpack(prefix)
            if length > MAX_BYTES:
                raise BadFrame(f"its head is larger than {MAX_BYTES >> 20} MiB")
            head = json.loads(self._exactly(length))
            if not isinstance(head, dict):
                raise BadFrame("its head is no object")
        except (ValueError, RecursionError):
            said.close()
            raise BadFrame("its head is no JSON") from None
        except BaseException:
            said.close()
            raise
        for descriptor in said.descriptors:
            os.set_inheritable(descriptor, False)
        said.head = head
        return said

    def close(self) -> None:
        """Wake whoever reads, here and there."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)
        self._stream.close()

    def _exactly(self, length: int) -> bytes:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            got = self._stream.recv_into(view)
            if not got:
                raise BadFrame("it ends in the middle")
            view = view[got:]
        return bytes(data)
