"""What ``kit verify`` says of a kit's settings: whether a process that starts with them has all it needs."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from flip_fl import settings
from flip_fl.errors import FlipError
from flip_fl.provision.extras import LOCAL, settings_name
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import Kit, KitRole
from flip_fl.provision.settings_names import unread_lines
from flip_fl.values import Role

_ROLES: dict[KitRole, tuple[type[settings.RoleSettings], Role]] = {
    KitRole.SERVER: (settings.ServerSettings, Role.SERVER),
    KitRole.SITE: (settings.ClientSettings, Role.CLIENT),
}


def check_settings(kit: Kit) -> None:
    """Raises ``FlipError`` as ``settings.load`` does for a site whose settings lack something or are malformed.

    Such a site would be connected and fail every job. One of a developer's machine reads local files.
    """
    if kit.record is None or kit.role is not KitRole.SITE:
        return
    file = kit.folder / LOCAL / settings_name(kit.record)
    if not settings.is_dev(file):
        settings.load(settings.ClientSettings, file)


def settings_finding(kit: Kit) -> Iterator[Finding]:
    """What is missing is a warning until the kit is filled in where it is installed; no site starts with either."""
    if kit.role not in _ROLES or kit.record is None:
        return
    needed, role = _ROLES[kit.role]
    file = kit.folder / LOCAL / settings_name(kit.record)
    told = file.relative_to(kit.folder)
    with contextlib.suppress(OSError, UnicodeDecodeError):  # which is told below
        yield from unread_lines(file, told, role)
    try:
        if kit.role is KitRole.SITE and settings.is_dev(file):
            yield Finding("settings", "warn", f"{told} says LOCAL_DEV=true", "the site's cohort is a local file", None)
            return
        found = settings.load(needed, file)
    except FlipError as error:
        if error.code == "E0401":
            what = f"{told} is not filled in yet: {error.facts['names']}"
            why = "the site does not start before" if kit.role is KitRole.SITE else error.why
            yield Finding("settings", "warn", what, why, error.fix)
        else:
            yield Finding("settings", "fail", error.what, error.why, error.fix, error)
        return
    yield Finding("settings", "ok", f"{told} has all that the {needed.role} needs")
    if isinstance(found, settings.ClientSettings):
        yield from _folders(found)


def _folders(found: settings.ClientSettings) -> Iterator[Finding]:
    """The folders that a job reads and writes, as whoever asks sees them."""
    images, state = found.images_dir, found.state_dir
    if images is not None:
        if images.is_dir() and os.access(images, os.R_OK | os.X_OK):
            yield Finding("folders", "ok", f"IMAGES_DIR {images} can be read")
        else:
            what = f"IMAGES_DIR {images} " + ("cannot be read" if images.exists() else "is not there")
            fix = "give the folder that the imaging service writes studies to, or mount it; or take the line out"
            yield Finding("folders", "fail", what, "a job finds no image there", fix)
    if state is None:
        why = "what is spent of privacy, and what a job kept, is lost with its folder"
        yield Finding("folders", "warn", "FLIP_STATE_DIR is not set", why, "set it to a folder that stays")
        return
    there = next(path for path in (state.absolute(), *state.absolute().parents) if path.exists())
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        made = "" if there == state.absolute() else "; it is made by the first job"
        yield Finding("folders", "ok", f"FLIP_STATE_DIR {state} can be written{made}")
    else:
        why = "nothing of a job could be kept"
        yield Finding(
            "folders", "fail", f"FLIP_STATE_DIR {state} cannot be written", why, f"let this user write {there}"
        )
