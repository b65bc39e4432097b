"""Where guests come from: one process that has loaded what they need, for each process that has guests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from flip_fl.app.forks import Fork
from flip_fl.app.kept_forks import KeptForkServer

GUEST = "flip_fl.app.isolation.guest"
# A cohort is a data frame: an app asks for one before all else.
MODULES = ("torch", "pandas", GUEST)
# What a process needs to find its libraries and its share of the machine; nothing else is handed on.
_KEPT = ("PATH", "LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "TZ", "PYTHONHASHSEED")
_KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "TORCH_", "PYTORCH_", "CUBLAS_", "HIP_")
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])


def home_environment(home: Path) -> dict[str, str]:
    """The environment of a guest whose own folder is ``home``."""
    return {**guest_environment(os.environ), "HOME": str(home), "TMPDIR": str(home)}


def guest_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What of ``environment`` a guest has: libraries, language and processors; no setting, no key."""
    kept = {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    return {**kept, "PYTHONPATH": _PACKAGE_ROOT, "PYTHONDONTWRITEBYTECODE": "1"}


servers = KeptForkServer(MODULES, lambda: guest_environment(os.environ))


def fork_guest(
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
    return servers.fork(module, argv, environment, cwd=cwd or home, descriptors=descriptors, output=output)
