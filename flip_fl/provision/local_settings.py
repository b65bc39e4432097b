"""What ``kit verify`` says of a kit's settings: whether a process that starts with them has all it needs."""

from __future__ import annotations

from collections.abc import Iterator

from flip_fl import settings
from flip_fl.errors import FlipError
from flip_fl.provision.extras import LOCAL, settings_name
from flip_fl.provision.files import Finding
from flip_fl.provision.kit import Kit, KitRole

_ROLES: dict[KitRole, type[settings.RoleSettings]] = {
    KitRole.SERVER: settings.ServerSettings,
    KitRole.SITE: settings.ClientSettings,
}


def settings_finding(kit: Kit) -> Iterator[Finding]:
    """A kit is filled in where it is installed: what is missing is a warning, what is wrong would stop the start."""
    role = _ROLES.get(kit.role)
    if role is None or kit.record is None:
        return
    file = kit.folder / LOCAL / settings_name(kit.record)
    told = file.relative_to(kit.folder)
    try:
        if kit.role is KitRole.SITE and settings.is_dev(file):
            yield Finding("settings", "warn", f"{told} says LOCAL_DEV=true", "the site's cohort is a local file", None)
            return
        settings.load(role, file)
    except FlipError as error:
        if error.code == "E0401":
            what = f"{told} is not filled in yet: {error.facts['names']}"
            yield Finding("settings", "warn", what, error.why, error.fix)
        else:
            yield Finding("settings", "fail", error.what, error.why, error.fix, error)
        return
    yield Finding("settings", "ok", f"{told} has all that the {role.role} needs")
