"""A process's own fork server: started when it is first needed, and again when it has gone to rest."""

from __future__ import annotations

import atexit
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from flip_fl.app.forks import NEVER_S, Fork, ForkServer


class KeptForkServer:
    """One fork server for whatever in this process forks from it: loading its ``modules`` is what costs.

    ``environment`` gives the server's environment at its start; see ``ForkServer``.
    """

    def __init__(
        self, modules: Sequence[str], environment: Callable[[], Mapping[str, str]], *, idle_s: float = NEVER_S
    ) -> None:
        self._modules, self._environment, self._idle_s = tuple(modules), environment, idle_s
        self._lock = threading.Lock()
        self._server: ForkServer | None = None
        self._ours = False

    def use(self, server: ForkServer) -> None:
        """Fork from ``server`` as long as it is there; whoever started it closes it."""
        with self._lock:
            self._server, self._ours = server, False

    def fork(
        self,
        module: str,
        argv: Sequence[str | int],
        env: Mapping[str, str],
        *,
        cwd: Path,
        output: int | None = None,
        descriptors: Sequence[int] = (),
    ) -> Fork:
        """A child that is there: see ``ForkServer.fork``. Raises ``OSError``."""
        for anew in (False, True):
            try:
                child = self._usable(anew).fork(module, argv, env, cwd=cwd, output=output, descriptors=descriptors)
            except ConnectionError:
                continue
            with contextlib.suppress(ChildProcessError):
                if child.pid:
                    return child
            child.close()
            if child.problem:
                raise ChildProcessError(child.problem)
            # Else the server went to rest in this very moment.
        raise OSError("the process that starts it has ended twice")

    def close(self) -> None:
        """End the server and all children of it, if it is this process's own."""
        if self._server is not None and self._ours and self._server.usable:
            self._server.close()

    def _usable(self, anew: bool) -> ForkServer:
        with self._lock:
            if self._server is None or anew or not self._server.usable:
                if not self._ours:
                    atexit.register(self.close)
                self._server, self._ours = ForkServer(self._modules, self._environment(), idle_s=self._idle_s), True
            return self._server
