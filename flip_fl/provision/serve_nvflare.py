"""NVFLARE's process of a kit, a server's or a client's: started, started again when it dies, and ended.

NVFLARE's own script does so with files of process ids, which two ways of starting one kit overwrite for each other, and
hears a request to end only when it has begun. Its files for the administrator's commands count here, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from flip_fl.provision.connection import followed
from flip_fl.provision.connection_nvflare import ClientLog, client_is_connected
from flip_fl.provision.kit import STARTUP, Kit, KitRole
from flip_fl.provision.kit_process import STOPPED, tell
from flip_fl.simulate.processes import Child

# Said to NVFLARE's script, which otherwise hands over to `serve`.
SUPERVISED = "FLIP_KIT_SUPERVISED"
# What the administrator's `shutdown` and `restart` leave in the workspace; NVFLARE's script waits so long after them.
SHUTDOWN, RESTART = "shutdown.fl", "restart.fl"
SETTLE_S = 5.0
# A process that dies so often does not run.
MOST_DEATHS, WITHIN_S = 5, 300.0
AGAIN_S = 5.0
EVERY_S = 0.2
GRACE_S = 20.0
LOG = "log.txt"
_PR_SET_PDEATHSIG = 1


def run_nvflare(kit: Kit, over: threading.Event) -> int:
    """Run it until it is ``over`` or an administrator shuts it down; 1 when it dies again and again."""
    workspace = Path(os.environ.get("NVFL_WORKSPACE") or kit.folder)
    with contextlib.ExitStack() as parts:
        if kit.role is KitRole.SITE:
            parts.enter_context(followed(kit, workspace / LOG, ClientLog(time.time(), client_is_connected)))
        return _run(kit, workspace, over)


def _run(kit: Kit, workspace: Path, over: threading.Event) -> int:
    deaths: deque[float] = deque(maxlen=MOST_DEATHS)
    while not over.is_set():
        for name in (SHUTDOWN, RESTART):
            (workspace / name).unlink(missing_ok=True)
        child = _start(kit)
        try:
            asked = _wait(child, workspace, over)
        finally:
            code = child.stop(GRACE_S)
        if over.is_set() or asked == SHUTDOWN:
            break
        if asked == RESTART:
            continue
        deaths.append(time.monotonic())
        if len(deaths) == MOST_DEATHS and deaths[-1] - deaths[0] < WITHIN_S:
            tell(f"{kit.name} has ended {MOST_DEATHS} times in {WITHIN_S / 60:.0f} min, and is left: see {LOG}")
            return 1
        tell(f"{kit.name} has ended (exit code {code}), and is started again in {AGAIN_S:.0f} s: see {LOG}")
        over.wait(AGAIN_S)
    return STOPPED


def _wait(child: Child, workspace: Path, over: threading.Event) -> str | None:
    """Until it has ended, is over, or an administrator's command has had its time; which command, if any."""
    while child.running and not over.wait(EVERY_S):
        for name in (SHUTDOWN, RESTART):
            if (workspace / name).exists():
                end = time.monotonic() + SETTLE_S
                while child.running and time.monotonic() < end and not over.wait(EVERY_S):
                    pass
                return name
    return next((name for name in (SHUTDOWN, RESTART) if (workspace / name).exists()), None)


def _start(kit: Kit) -> Child:
    # NVFLARE's script takes the first python3 of the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    process = subprocess.Popen(
        ["/bin/bash", str(kit.folder / STARTUP / "sub_start.sh"), "--once"],
        cwd=kit.folder,
        env={**os.environ, "PATH": path, SUPERVISED: "1"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=_with_parent(),
    )
    tell(f"{kit.name} is started (process {process.pid}); its log is {LOG}")
    return Child(kit.name, process, kit.folder / LOG)


def _with_parent() -> Callable[[], None] | None:
    """A killed supervisor leaves no process that nobody knows of, and that would be there beside the next one."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def end_with_parent() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return end_with_parent
