"""A conversation between two processes in which either may ask while it is being asked."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from flip_fl.flower.hosted_values import value_from_bytes, value_to_bytes
from flip_fl.flower.local_pipe import BrokenFrame, FrameReader, send_frame

LOOK_EVERY_S = 0.5
CALL, ANSWER, REFUSED, OVER = "call", "answer", "refused", "over"


class PeerGone(Exception):
    """The other process is not there any more, or sent what is no word of this conversation: the text says which."""


class PeerRefused(Exception):
    """The other process could not do what it was asked for; ``why`` is what it says."""

    def __init__(self, why: Any) -> None:
        super().__init__(why)
        self.why = why


class Peer:
    """One end. ``handlers`` answer what the other end asks for; ``excuse`` says in plain values what one has raised.

    While this end waits it calls ``look`` twice a second, which may raise. Questions nest strictly, so that an answer
    is always that to the last question; all of them come from the thread that made this object.
    """

    def __init__(
        self,
        connection: socket.socket,
        handlers: Mapping[str, Callable[..., Any]],
        excuse: Callable[[Exception], Any],
        look: Callable[[], None] = lambda: None,
    ) -> None:
        self._connection = connection
        self._reader = FrameReader(connection)
        self._handlers = handlers
        self._excuse = excuse
        self._look = look
        self._owner = threading.get_ident(), os.getpid()

    def call(self, name: str, *arguments: Any) -> Any:
        """What the other end's handler ``name`` returns.

        Raises ``PeerRefused`` with what it says of what it has raised, ``PeerGone``, and ``RuntimeError`` in any other
        thread or process.
        """
        if self._owner != (threading.get_ident(), os.getpid()):
            raise RuntimeError("the grid can only be used by the thread in which the ServerApp's main function runs")
        self._tell(CALL, name, list(arguments))
        return self._listen(ANSWER)

    def serve(self) -> Any:
        """Answer until the other end says ``over``; what it says then. Raises ``PeerGone``."""
        return self._listen(OVER)

    def over(self, value: Any) -> None:
        """Say the last word."""
        self._tell(OVER, value)

    def _listen(self, awaited: str) -> Any:
        while True:
            word, *rest = self._receive()
            if word == CALL:
                self._answer(*rest)
            elif word == REFUSED and awaited == ANSWER:
                raise PeerRefused(rest[0])
            elif word == awaited:
                return rest[0]
            else:
                raise PeerGone(f"said {str(word)[:20]!r} when {awaited!r} was due")

    def _answer(self, name: str, arguments: list[Any]) -> None:
        handler = self._handlers.get(name)
        try:
            if handler is None:
                raise LookupError(f"nobody here answers {name!r:.40}")
            answer = value_to_bytes([ANSWER, handler(*arguments)])
        except PeerGone:
            raise
        except Exception as error:
            self._tell(REFUSED, self._excuse(error))
        else:
            self._send(answer)

    def _tell(self, *words: Any) -> None:
        self._send(value_to_bytes(list(words)))

    def _send(self, data: bytes) -> None:
        try:
            send_frame(self._connection, data)
        except OSError as error:
            raise PeerGone(f"cannot be reached ({error.strerror or error})") from None

    def _receive(self) -> list[Any]:
        try:
            while (frame := self._next()) is None:
                if self._reader.closed:
                    raise PeerGone("closed the connection")
            said = value_from_bytes(frame)
        except (BrokenFrame, ValueError) as error:
            raise PeerGone(f"sent what is no word ({error})") from None
        if not isinstance(said, list) or len(said) < 2:
            raise PeerGone("sent what is no word")
        return said

    def _next(self) -> bytearray | None:
        while not select.select([self._connection], [], [], LOOK_EVERY_S)[0]:
            self._look()
        return self._reader.read()
