"""What a guest does to itself before it runs anything of the app: from here on nothing can be taken back."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import struct

from flip_fl.app.isolation import landlock, seccomp
from flip_fl.app.isolation.rules import Level, Rules, allowed

_PR_CAPBSET_DROP = 24
_LAST_CAPABILITY = 63
_CAPABILITY_VERSION = 0x20080522
# The system's choice when memory ends: the guest, not the engine.
_FIRST_TO_GO = "1000"


def enter(given: Rules) -> int | None:
    """Apply ``given`` to this process; the descriptor on which its openings are told, if any.

    Raises ``OSError`` when any of it cannot be had, and in a process of several threads, of which it would hold only
    one: the caller must not go on then.
    """
    _limit(given)
    if given.level is not Level.FULL:
        return None
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        raise OSError(errno.EBUSY, f"it has {threads} threads already")
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
        score.write(_FIRST_TO_GO)
    places = allowed(given)
    _give_up_privileges()
    seccomp.no_new_privileges()
    landlock.restrict(places)
    return seccomp.restrict(signals=landlock.abi() >= landlock.SCOPES_ABI)


def _limit(given: Rules) -> None:
    for which, wanted in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, given.file_bytes),
        (resource.RLIMIT_DATA, given.memory_bytes),
    ):
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def _give_up_privileges() -> None:
    """Nothing of what root may: also where the engine runs as root, as it does in many containers."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        # Without the right to it, or without the capability, there is nothing to give up.
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
