"""Landlock: which files a process and all that it starts may open, by the system call that needs no privilege.

https://docs.kernel.org/userspace-api/landlock.html; the numbers are those of ``linux/landlock.h``.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable, Mapping
from enum import IntFlag

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION = 1
_PATH_BENEATH = 1
# Before the third version a file may be cut short wherever it lies.
NEEDED_ABI = 3
# From this one on, signals and abstract sockets end at the domain, too.
SCOPES_ABI = 6
_IOCTL_ABI = 5
_NETWORK_ABI = 4
_BIND_AND_CONNECT = 0b11
_SOCKETS_AND_SIGNALS = 0b11


class Access(IntFlag):
    """What may be done beneath a path; a path that nothing is said of may only be looked at with ``stat``."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
_ALL = Access((1 << 16) - 1)
READ = Access.READ_FILE | Access.READ_DIR
RUN = READ | Access.EXECUTE
WRITE = (
    READ
    | Access.WRITE_FILE
    | Access.TRUNCATE
    | Access.MAKE_REG
    | Access.MAKE_DIR
    | Access.MAKE_SYM
    | Access.MAKE_FIFO
    | Access.REMOVE_FILE
    | Access.REMOVE_DIR
    | Access.REFER
)
DEVICE = Access.READ_FILE | Access.WRITE_FILE | Access.IOCTL_DEV
# Files whose names one must know.
NAMED = WRITE & ~Access.READ_DIR


def abi() -> int:
    """The version that the system offers; 0 where it has none."""
    try:
        return max(0, _call(_CREATE_RULESET, None, 0, _VERSION))
    except (OSError, AttributeError):
        return 0


def restrict(allowed: Mapping[str, Access]) -> None:
    """Keep this thread, and what it starts from now on, to ``allowed``: access by path, with all that lies beneath.

    Paths that are not there are passed over. Needs ``no_new_privs``. Raises ``OSError``.
    """
    version = abi()
    handled = _ALL if version >= _IOCTL_ABI else _ALL & ~Access.IOCTL_DEV
    attributes = struct.pack(
        "=QQQ",
        handled,
        _BIND_AND_CONNECT if version >= _NETWORK_ABI else 0,
        _SOCKETS_AND_SIGNALS if version >= SCOPES_ABI else 0,
    )
    size = 24 if version >= SCOPES_ABI else 16 if version >= _NETWORK_ABI else 8
    ruleset = _call(_CREATE_RULESET, attributes, size, 0)
    try:
        for path, access in allowed.items():
            _allow(ruleset, path, access & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: Access) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _OF_FILES
        if access:
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", access, descriptor), 0)
    finally:
        os.close(descriptor)


def _call(number: int, *arguments: int | bytes | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = libc.syscall(ctypes.c_long(number), *(_word(each) for each in arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _word(argument: int | bytes | None) -> ctypes.c_long | bytes | None:
    return ctypes.c_long(argument) if isinstance(argument, int) else argument


def existing(paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that are there, each once, links followed."""
    return list(dict.fromkeys(os.path.realpath(path) for path in paths if os.path.exists(path)))
