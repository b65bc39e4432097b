"""Disks in trouble: a small one that fills up, and one that does not confirm what it was told to keep."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_SYNC_CALLS = {"x86_64": (74, 75), "aarch64": (82, 83)}
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_ALLOW, _FAIL_WITH = 0x7FFF0000, 0x00050000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06


@contextmanager
def small_disk(folder: Path, kib: int) -> Iterator[Path]:
    """``folder`` as a file system of ``kib`` KiB of its own; the test is left out where nobody may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={kib}k"
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(folder)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("LEFT OUT: a full disk: a small file system cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def resize(folder: Path, kib: int) -> None:
    """Make room on a ``small_disk``."""
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(folder)], check=True)


def fail_every_sync() -> None:
    """From now on the kernel answers each fsync and fdatasync of this process with an I/O error. For children only."""
    fsync, fdatasync = _SYNC_CALLS[platform.machine()]
    program = [
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_IF_EQUAL, 1, 0, fsync),
        (_JUMP_IF_EQUAL, 0, 1, fdatasync),
        (_RETURN, 0, 0, _FAIL_WITH | errno.EIO),
        (_RETURN, 0, 0, _ALLOW),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    for call in ((_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (_PR_SET_SECCOMP, _FILTER, head)):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
