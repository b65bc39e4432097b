"""Where guests come from: one process that has loaded what they need, for each process that has guests."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from flip_fl.app.forks import Fork, ForkServer

GUEST = "flip_fl.app.isolation.guest"
MODULES = ("torch", GUEST)
# What a process needs to find its libraries and its share of the machine; nothing else is handed on.
_KEPT = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "PYTHONHASHSEED")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "TORCH_", "PYTORCH_", "CUBLAS_", "HIP_")
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])


class _Servers:
    """This process's server: there is one, like ``multiprocessing``'s, because loading torch is what costs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._server: ForkServer | None = None

    def use(self, server: ForkServer) -> None:
        """Take guests from ``server``, which another process has shared."""
        with self._lock:
            self._server = server

    def fork(
        self,
        home: Path,
        own: Mapping[str, str],
        descriptors: Sequence[int],
        output: int | None,
        *,
        module: str = GUEST,
        argv: Sequence[str | int] = (0,),
        cwd: Path | None = None,
    ) -> Fork:
        """A guest whose home is ``home``: see ``ForkServer.fork``. Raises ``OSError``."""
        environment = {**home_environment(home), **own}
        for anew in (False, True):
            try:
                child = self._usable(anew).fork(
                    module, argv, environment, cwd=cwd or home, descriptors=descriptors, output=output
                )
            except ConnectionError:
                continue
            if child.pid:
                return child
        raise OSError("the process that starts it has ended twice")

    def close(self) -> None:
        if self._server is not None and self._server.usable:
            self._server.close()

    def _usable(self, anew: bool) -> ForkServer:
        with self._lock:
            if self._server is None or anew or not self._server.usable:
                if self._server is None:
                    atexit.register(self.close)
                self._server = ForkServer(MODULES, guest_environment(os.environ))
            return self._server


servers = _Servers()


def home_environment(home: Path) -> dict[str, str]:
    """The environment of a guest whose own folder is ``home``."""
    return {**guest_environment(os.environ), "HOME": str(home), "TMPDIR": str(home)}


def guest_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of ``environment`` a guest has: libraries, language and processors; no setting, no key."""
    kept = {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return {**kept, "PYTHONPATH": _PACKAGE_ROOT, "PYTHONDONTWRITEBYTECODE": "1"}
