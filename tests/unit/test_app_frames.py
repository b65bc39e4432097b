"""Messages between a site and a script: what is sent is read, and what is no message is refused before it costs."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flip_fl.app.faults import BadFrame
from flip_fl.app.frames import MAX_HEAD_BYTES, read_frame, write_frame

LIMIT = 1 << 20

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def raw(head: Any, arrays: Any = ()) -> bytes:
    """A message with any head, said to have any arrays."""
    text = json.dumps({**head, "arrays": list(arrays)}).encode() if isinstance(head, dict) else head
    return b"FLS1" + struct.pack("!I", len(text)) + text


def test_heads_and_arrays_arrive_as_they_were_sent(pair: Pair) -> None:
    """Every kind of number, scalars, empty arrays and any name and order; nothing at the end of the channel."""
    ours, theirs = pair
    arrays = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "file": np.array(3, dtype=np.int64),
        "": np.zeros((0, 4), dtype=np.float16),
        "flags": np.array([True, False]),
        "z": np.array([1 + 2j], dtype=np.complex64),
    }
    write_frame(ours, {"kind": "task", "text": "é\u2028"}, arrays)
    write_frame(ours, {"kind": "end"})
    ours.close()
    head, found = read_frame(theirs, lambda: LIMIT) or ({}, {})
    assert head == {"kind": "task", "text": "é\u2028"}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
    assert read_frame(theirs, lambda: LIMIT) == ({"kind": "end"}, {})
    assert read_frame(theirs, lambda: LIMIT) is None


@pytest.mark.parametrize(
    ("sent", "problem"),
    [
        (b"HTTP/1.1 200 OK\r\n", "begin"),
        (b"FLS1" + struct.pack("!I", MAX_HEAD_BYTES + 1), "larger than"),
        (raw(b"{not json"), "no JSON"),
        (raw(b"[" * 100_000), "no JSON"),
        (raw(b"[1]"), "no object"),
        (b"FLS1" + struct.pack("!I", 2) + b"{}", "not described"),
        (raw({}, [["w", "<f4"]]), "not described"),
        (raw({}, [[1, "<f4", [1]]]), "no usable name"),
        (raw({}, [["w", "|O", [1]]]), "no usable type"),
        (raw({}, [["w", "<U9", [1]]]), "no usable type"),
        (raw({}, [["w", "(2,)f4", [1]]]), "no usable type"),
        (raw({}, [["w", "f4,f4", [1]]]), "no usable type"),
        (raw({}, [["w", "<f4", [-1]]]), "no usable shape"),
        (raw({}, [["w", "<f4", [True]]]), "no usable shape"),
        (raw({}, [["w", "<f4", "1"]]), "no usable shape"),
        (raw({}, [["w", "<f4", [1] * 40]]), "no usable shape"),
        (raw({}, [["w", "<f4", [0, 1 << 61, 1 << 61]]]), "no usable shape"),
        (raw({}, [["w", "<f4", [1 << 61]]]), "larger than"),
        (raw({}, [["w", "<f4", [1 << 17]], ["v", "<f4", [1 << 18]]]), "larger than"),
        (raw({}, [["w", "<f4", [1]], ["w", "<f4", [1]]]), "one name"),
        (raw({}, [["w", "<f4", [4]]]) + b"\0\0", "in the middle"),
        (raw({})[:-1], "in the middle"),
        (b"FL", "in the middle"),
    ],
)
def test_what_is_no_message_is_refused(sent: bytes, problem: str, pair: Pair) -> None:
    """Malformed, cut, oversized: an error that names it, before memory is taken for what was promised."""
    ours, theirs = pair
    ours.sendall(sent)
    ours.close()
    with pytest.raises(BadFrame, match=problem):
        read_frame(theirs, lambda: LIMIT)


def test_a_head_that_nobody_would_take_is_not_sent(pair: Pair) -> None:
    """The one who writes hears that it is too large, and the channel is still good."""
    ours, theirs = pair
    with pytest.raises(BadFrame):
        write_frame(ours, {"text": "x" * MAX_HEAD_BYTES})
    write_frame(ours, {"kind": "end"})
    assert read_frame(theirs, lambda: LIMIT) == ({"kind": "end"}, {})


@given(st.binary(max_size=400))
def test_no_bytes_do_anything_else_than_be_refused(sent: bytes) -> None:
    """Whatever comes, it is a message, the end, or ``BadFrame``."""
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(sent)
        with contextlib.suppress(BadFrame):
            read_frame(theirs, lambda: LIMIT)


def test_a_large_model_goes_through_in_pieces(pair: Pair) -> None:
    """Beyond what a channel holds at once."""
    ours, theirs = pair
    array = np.arange(1 << 21, dtype=np.float64)
    writer = threading.Thread(target=write_frame, args=(ours, {}, {"w": array}))
    writer.start()
    _, found = read_frame(theirs, lambda: 1 << 25) or ({}, {})
    writer.join()
    np.testing.assert_array_equal(found["w"], array)
