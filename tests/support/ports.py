"""A port for a server that is started later, or again, which nobody else is given in between."""

from __future__ import annotations

import contextlib
import secrets
import socket
from pathlib import Path

RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_000
# where a system that does not say it hands ports out from
USUAL = 32_768


def later_port() -> int:
    """A free port of loopback outside the range from which the system gives ports to whoever asks for any.

    One from that range may be a stranger's as soon as it is let go: many tests connect and listen at the same time.
    """
    first = int(RANGE.read_text().split()[0]) if RANGE.exists() else USUAL
    below = range(LOWEST, first if first > LOWEST + 1000 else USUAL)
    while True:
        port = secrets.choice(below)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
