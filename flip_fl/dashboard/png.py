"""Small pictures as PNG (ISO/IEC 15948), for pages that fetch nothing."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _COLOUR = 0, 2


def png(pixels: Any) -> bytes:
    """A uint8 array of shape (height, width), or (height, width, 3) for red, green and blue, as a PNG file."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOUR if pixels.ndim == 3 else _GREY, 0, 0, 0)
    # Each line begins with the number of its filter: none.
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return _SIGNATURE + b"".join(_chunk(kind, data) for kind, data in chunks)


def data_address(pixels: Any) -> str:
    """``png`` as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
