"""One order to a running NVFLARE server, given with the administrator's kit, in a process of its own.

A session of NVFLARE's leaves threads behind that keep its interpreter alive, and prints; whoever calls ``disable`` has
neither. ``python -m flip_fl.provision.nvflare_admin KIT SLOT`` is what it starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from flip_fl.errors import FlipError

TIMEOUT_S = 60.0
_ANSWER_S = 20.0


def disable(kit: Path, slot: str) -> None:
    """Make the server refuse ``slot`` from now on, also after a start. Raises ``FlipError`` E0616."""
    command = [sys.executable, "-m", __name__, str(kit), slot]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise FlipError("E0616", slot=slot, problem=f"no answer within {TIMEOUT_S:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise FlipError("E0616", slot=slot, problem=lines[-1] if lines else f"exit code {done.returncode}")


def main(kit: str, slot: str) -> None:
    """Ends the process."""
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    from flip_fl.provision.nvflare import ADMIN_NAME

    try:
        session = new_secure_session(ADMIN_NAME, kit, timeout=_ANSWER_S)
        session.disable_client(slot)
    except BaseException as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
