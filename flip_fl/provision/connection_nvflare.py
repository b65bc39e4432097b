"""What NVFLARE's client says of its connection, and what the system says of it.

Its log (2.9) tells when the server has registered the client, and of each connection when it is tried and when it is
lost. That a later try has worked is not told: it has, when it is not lost and the system holds it for established.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import psutil

from flip_fl.simulate.processes import descendants

_PROGRAM = "nvflare.private.fed.app.client.client_train"
_BEGINS = (" ACTIVE ", "is starting")
_REGISTERED = "Successfully registered client:"
_TRIED = "created secure channel at"
_LOST = "finished connection"
# Heartbeats are sent every 30 s; one that is refused again every five.
_REFUSED, _REFUSED_S = "Failed to send heartbeat", 60.0


class ClientLog:
    """See ``connection.Reader``; ``established`` is whether this kit's client has a connection to its server."""

    def __init__(self, now: float, established: Callable[[], bool]) -> None:
        self.tried_at = now
        self._established = established
        self._registered = self._up = False
        self._refused_at = float("-inf")

    def read(self, line: str, now: float) -> None:
        if all(words in line for words in _BEGINS):
            self._registered = self._up = False
        elif _REGISTERED in line:
            self._registered = True
        elif _TRIED in line:
            self._up, self.tried_at = True, now
        elif _LOST in line:
            self._up, self.tried_at = False, now
        elif _REFUSED in line:
            self._refused_at = self.tried_at = now

    def connected(self, now: float) -> bool:
        return self._registered and self._up and now - self._refused_at > _REFUSED_S and self._established()


def client_is_connected() -> bool:
    """Whether NVFLARE's client below this process has a connection of its own making: jobs connect to it, it to the
    server, or to the proxy that leads there.
    """
    for process in descendants(os.getpid()):
        with contextlib.suppress(psutil.Error):
            if _PROGRAM in process.cmdline():
                found = process.net_connections("tcp")
                own = {each.laddr.port for each in found if each.status == psutil.CONN_LISTEN}
                return any(each.status == psutil.CONN_ESTABLISHED and each.laddr.port not in own for each in found)
    return False
