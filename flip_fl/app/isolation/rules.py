"""How far researcher code is kept apart at a site, and what it may use there: plain facts, and what a system offers."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flip_fl.app.isolation import landlock, seccomp

if TYPE_CHECKING:
    from flip_fl.privacy.policy import SitePolicy

DEFAULT_PROCESSES = 256
DEFAULT_FILE_MB = 16_384
# What is left to the engine and the system.
_SHARE_OF_MEMORY = 0.8
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/opt")
_LOOKED_AT = (
    "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone",
    "/etc/nsswitch.conf", "/etc/passwd", "/etc/group", "/etc/mime.types", "/etc/ssl/openssl.cnf", "/etc/alternatives",
    "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/version", "/proc/filesystems", "/proc/sys/kernel",
    "/proc/sys/vm", "/proc/driver/nvidia", "/sys/devices/system", "/sys/fs/cgroup", "/sys/bus/pci", "/sys/module",
)  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/kfd", "/dev/dri")


class Level(StrEnum):
    """``full``: a process behind the system's walls; ``process``: one without them; ``none``: the engine's own."""

    FULL = "full"
    PROCESS = "process"
    NONE = "none"

    @property
    def rank(self) -> int:
        """The higher, the further apart."""
        return (Level.NONE, Level.PROCESS, Level.FULL).index(self)


@dataclass(frozen=True)
class Isolation:
    """What a site asks for: the level, and limits of one app.

    ``memory_mb`` and ``processes`` are of the app with all that it starts, ``file_mb`` of one file that it writes,
    ``task_minutes`` of one task (None: as long as it takes). ``read`` and ``write`` are folders beside the app's own.
    """

    level: Level = Level.FULL
    memory_mb: int | None = None
    processes: int = DEFAULT_PROCESSES
    file_mb: int = DEFAULT_FILE_MB
    task_minutes: float | None = None
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()

    @classmethod
    def of(cls, policy: SitePolicy | None, *, development: bool = False) -> Isolation:
        """What the site's ``policy`` asks for; where there is none, a trust asks for all of it.

        On a developer's own machine both the app and the data are the developer's: no walls, unless a policy says so.
        """
        if policy is None:
            return cls(level=Level.NONE) if development else cls()
        given = policy.isolation.model_dump(exclude_none=True)
        return cls(**{**given, "level": Level(given["level"])})

    @property
    def memory_bytes(self) -> int:
        """The limit, where none is given four fifths of the machine's memory."""
        if self.memory_mb is not None:
            return self.memory_mb << 20
        return int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") * _SHARE_OF_MEMORY)


@dataclass(frozen=True)
class Rules:
    """What a guest applies to itself before it runs anything of the app; plain data, so that it can be told.

    ``read`` are folders and files, ``write`` folders, ``drop`` folders whose content cannot be listed.
    """

    level: Level
    read: tuple[str, ...]
    write: tuple[str, ...]
    file_bytes: int
    memory_bytes: int
    processes: int
    drop: tuple[str, ...] = ()

    def told(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Rules:
        """The rules that were ``told``."""
        lists = {name: tuple(told[name]) for name in ("read", "write", "drop")}
        return cls(**{**told, **lists, "level": Level(told["level"])})


def offered() -> tuple[Level, str]:
    """The highest level that this system has, and why it is not full."""
    if not sys.platform.startswith("linux"):
        return Level.PROCESS, f"{sys.platform} has neither Landlock nor seccomp"
    found = landlock.abi()
    if found < landlock.NEEDED_ABI:
        version = f"version {found}" if found else "none"
        return Level.PROCESS, f"the kernel's Landlock is {version}, version {landlock.NEEDED_ABI} (Linux 6.2) is needed"
    if not seccomp.offered():
        return Level.PROCESS, "the kernel takes no seccomp filter here"
    return Level.FULL, ""


def rules(level: Level, wanted: Isolation, *, read: tuple[str, ...], write: tuple[str, ...]) -> Rules:
    """The rules of one guest that may read and write these places beside the system's libraries."""
    return Rules(
        level,
        (*read, *wanted.read),
        (*write, *wanted.write),
        wanted.file_mb << 20,
        wanted.memory_bytes,
        wanted.processes,
    )


def allowed(given: Rules) -> dict[str, landlock.Access]:
    """Every place that the guest may open, and how."""
    libraries = landlock.existing((*_SYSTEM, sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), *_roots()))
    places = dict.fromkeys(libraries, landlock.RUN)
    places |= dict.fromkeys(landlock.existing(_LOOKED_AT), landlock.READ)
    places |= dict.fromkeys(landlock.existing((*_DEVICES, *_graphics())), landlock.DEVICE)
    places["/proc/self"] = landlock.READ
    # Semaphores of Python's multiprocessing lie there; their names are drawn at random.
    places["/dev/shm"] = landlock.NAMED
    places |= dict.fromkeys(landlock.existing(given.read), landlock.READ)
    places |= dict.fromkeys(landlock.existing(given.drop), landlock.NAMED)
    places |= dict.fromkeys(landlock.existing(given.write), landlock.WRITE)
    return places


def _roots() -> list[str]:
    """Where packages are imported from, the house's own included; never a whole home or root folder."""
    package = Path(__file__).resolve().parents[2]
    found = {str(package)}
    for entry in sys.path:
        path = Path(entry).resolve() if entry else None
        if path is not None and path.name in {"site-packages", "dist-packages"}:
            found.add(str(path))
    return sorted(found)


def _graphics() -> list[str]:
    try:
        return [f"/dev/{name}" for name in os.listdir("/dev") if name.startswith("nvidia")]
    except OSError:
        return []
