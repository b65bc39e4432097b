"""Which system calls a process and all that it starts may make: no network, no other process, nothing of the system.

A filter of the kernel's own (``man 2 seccomp``, classic BPF), written down here because libseccomp is not everywhere.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_ALLOW, _ERRNO, _KILL, _NOTIFY = 0x7FFF0000, 0x00050000, 0x80000000, 0x7FC00000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE = 0, 4
_X32 = 0x40000000
# CLONE_NEWNS … CLONE_NEWNET: a process that makes a world of its own.
_NAMESPACES = 0x7E020000
_THREAD = 0x00010000
_TIOCSTI = 0x5412


@dataclass(frozen=True)
class Machine:
    """The numbers of one processor's system calls.

    ``denied`` fail. ``passed_over`` do nothing and say that they did: Landlock does not look at modes, owners and
    times, and much that copies a file sets them.
    """

    audit: int
    seccomp: int
    denied: Mapping[str, int]
    passed_over: Mapping[str, int]
    clone: int
    clone3: int
    socketpair: int
    ioctl: int
    prlimit: int
    forking: Mapping[str, int]
    opening: Mapping[str, int]
    openat2: int
    signalling: Mapping[str, int]
    has_x32: bool = False


_X86 = Machine(
    audit=0xC000003E,
    seccomp=317,
    denied={
        "socket": 41, "connect": 42, "accept": 43, "bind": 49, "listen": 50, "accept4": 288,
        "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "kcmp": 312, "pidfd_open": 434,
        "pidfd_getfd": 438, "process_madvise": 440, "setpgid": 109, "setsid": 112,
        "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "mq_open": 240,
        "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
        "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272, "setns": 308,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "name_to_handle_at": 303, "open_by_handle_at": 304,
        "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246, "kexec_file_load": 320,
        "reboot": 169, "swapon": 167, "swapoff": 168, "acct": 163, "settimeofday": 164, "clock_settime": 227,
        "adjtimex": 159, "clock_adjtime": 305, "syslog": 103, "quotactl": 179, "sethostname": 170,
        "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198,
        "fremovexattr": 199, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469,
        "inotify_init": 253, "inotify_init1": 294, "inotify_add_watch": 254, "fanotify_init": 300,
        "setpriority": 141, "sched_setparam": 142, "sched_setscheduler": 144, "sched_setattr": 314,
        "sched_setaffinity": 203, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279, "process_mrelease": 448,
        "setdomainname": 171, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "vhangup": 153, "personality": 135,
    },
    passed_over={
        "chmod": 90, "fchmod": 91, "fchmodat": 268, "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94,
        "fchownat": 260, "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280,
    },
    clone=56, clone3=435, socketpair=53, ioctl=16, prlimit=302,
    forking={"fork": 57, "vfork": 58},
    opening={"open": 2, "openat": 257},
    openat2=437,
    signalling={"kill": 62, "tkill": 200, "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
                "pidfd_send_signal": 424},
    has_x32=True,
)  # fmt: skip
_ARM = Machine(
    audit=0xC00000B7,
    seccomp=277,
    denied={
        "socket": 198, "bind": 200, "listen": 201, "accept": 202, "connect": 203, "accept4": 242,
        "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "kcmp": 272, "pidfd_open": 434,
        "pidfd_getfd": 438, "process_madvise": 440, "setpgid": 154, "setsid": 157,
        "mq_open": 180, "msgget": 186, "semget": 190, "shmget": 194, "shmat": 196,
        "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
        "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
        "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268,
        "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
        "mount_setattr": 442, "name_to_handle_at": 264, "open_by_handle_at": 265,
        "init_module": 105, "delete_module": 106, "finit_module": 273, "kexec_load": 104, "kexec_file_load": 294,
        "reboot": 142, "swapon": 224, "swapoff": 225, "acct": 89, "settimeofday": 170, "clock_settime": 112,
        "adjtimex": 171, "clock_adjtime": 266, "syslog": 116, "quotactl": 60, "sethostname": 161,
        "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15,
        "fremovexattr": 16, "setxattrat": 463, "removexattrat": 466, "file_setattr": 469,
        "inotify_init1": 26, "inotify_add_watch": 27, "fanotify_init": 262,
        "setpriority": 140, "sched_setparam": 118, "sched_setscheduler": 119, "sched_setattr": 274,
        "sched_setaffinity": 122, "ioprio_set": 30, "migrate_pages": 238, "move_pages": 239, "process_mrelease": 448,
        "setdomainname": 162, "vhangup": 58, "personality": 92,
    },
    passed_over={"fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchownat": 54, "fchown": 55, "utimensat": 88},
    clone=220, clone3=435, socketpair=199, ioctl=29, prlimit=261,
    forking={},
    opening={"openat": 56},
    openat2=437,
    signalling={"kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
                "pidfd_send_signal": 424},
)  # fmt: skip
_MACHINES: Mapping[str, Machine] = {"x86_64": _X86, "aarch64": _ARM}


def machine() -> Machine | None:
    """This processor's numbers; None for one that is not known here."""
    return _MACHINES.get(platform.machine()) if platform.system() == "Linux" else None


def offered() -> bool:
    """Whether the system takes such a filter."""
    try:
        with open("/proc/sys/kernel/seccomp/actions_avail", encoding="ascii") as actions:
            return machine() is not None and {"errno", "user_notif"} <= set(actions.read().split())
    except OSError:
        return False


def restrict(*, signals: bool) -> int:
    """Put the filter over this process and what it starts; the descriptor on which it asks for files and processes.

    ``signals``: whether signals may be sent (where Landlock keeps them inside). All threads, of which there should be
    one. Raises ``OSError``.
    """
    known = machine()
    if known is None:
        raise OSError(errno.ENOSYS, f"no system calls are known for {platform.machine()}")
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges()
    code = program(known, signals=signals)
    buffer = ctypes.create_string_buffer(b"".join(code), 8 * len(code))
    header = struct.pack("HxxxxxxP", len(code), ctypes.addressof(buffer))
    listener: int = libc.syscall(
        ctypes.c_long(known.seccomp), ctypes.c_long(_SET_MODE_FILTER), ctypes.c_long(_NEW_LISTENER), header
    )
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener


def no_new_privileges() -> None:
    """No program that is started gets more rights than this process has. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def program(known: Machine, *, signals: bool) -> list[bytes]:
    """The filter: every system call is allowed but those that are named here."""
    denied = [*known.denied.values(), *(() if signals else known.signalling.values())]
    code = [
        _word(_LOAD, _ARCHITECTURE),
        _jump(_EQUAL, known.audit, yes=1),
        _word(_RETURN, _KILL),
        _word(_LOAD, _NUMBER),
    ]
    if known.has_x32:
        code += [_jump(_AT_LEAST, _X32, no=1), _word(_RETURN, _ERRNO | errno.ENOSYS)]
    # Looked for first: they are by far the most frequent of those that are named.
    for number in known.opening.values():
        code += _when(number, [_word(_RETURN, _NOTIFY)])
    # Their flags lie in memory, where a filter cannot look: callers have another way.
    for number in (known.clone3, known.openat2):
        code += _when(number, [_word(_RETURN, _ERRNO | errno.ENOSYS)])
    # A thread is nobody's business; of a new process is told, so that there are not too many.
    clone = [_argument(0), _jump(_ANY_BIT, _NAMESPACES, no=1), *_refusal(errno.EPERM)]
    code += _when(known.clone, [*clone, _jump(_ANY_BIT, _THREAD, yes=1), _word(_RETURN, _NOTIFY)])
    for number in known.forking.values():
        code += _when(number, [_word(_RETURN, _NOTIFY)])
    # A pair of streams speaks to its other end only.
    streams = [_argument(1), _word(_AND, 0xF), _jump(_EQUAL, socket.SOCK_STREAM, yes=1), *_refusal(errno.EACCES)]
    code += _when(known.socketpair, streams)
    code += _when(known.ioctl, [_argument(1), _jump(_EQUAL, _TIOCSTI, no=1), *_refusal(errno.EPERM)])
    # Of this process itself: limits of another one could end it.
    code += _when(known.prlimit, [_argument(0), _jump(_EQUAL, 0, yes=1), *_refusal(errno.EPERM)])
    for number in known.passed_over.values():
        code += _when(number, _refusal(0))
    for number in denied:
        code += _when(number, _refusal(errno.EACCES))
    return [*code, _word(_RETURN, _ALLOW)]


def _when(number: int, then: Sequence[bytes]) -> list[bytes]:
    """``then`` for this system call; what it lets pass is allowed."""
    body = [*then, _word(_RETURN, _ALLOW)]
    return [_jump(_EQUAL, number, no=len(body)), *body]


def _refusal(code: int) -> list[bytes]:
    return [_word(_RETURN, _ERRNO | code)]


def _argument(number: int) -> bytes:
    # The lower half: both processors put it first.
    return _word(_LOAD, 16 + 8 * number)


def _word(operation: int, value: int) -> bytes:
    return struct.pack("=HBBI", operation, 0, 0, value)


def _jump(operation: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", operation, yes, no, value)
