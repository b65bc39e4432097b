"""Where a hub of one's own lies: a folder with ``hub.env`` and, unless another database is set, ``hub.sqlite``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from sqlmodel import Session

    from flip_fl.hub.audit import Actor
    from flip_fl.settings import HubSettings

SETTINGS = "hub.env"
DATABASE = "hub.sqlite"
HERE = Path("hub")

DirOption = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The hub's folder: hub.env, hub.sqlite.")]


def hub_settings(directory: Path) -> HubSettings:
    """The settings of the hub in ``directory``, else of the one that FLIP_HUB_DATABASE_URL names.

    Raises ``FlipError`` E1001 when there is neither.
    """
    from flip_fl.settings import HubSettings, load

    file = directory / SETTINGS
    if file.is_file():
        return load(HubSettings, file)
    if os.environ.get("FLIP_HUB_DATABASE_URL"):
        return load(HubSettings)
    raise FlipError(
        "E1001",
        url=directory / DATABASE,
        problem=f"{directory} has no {SETTINGS}",
        fix=f"flip-fl hub init --dir {directory}",
    )


@contextmanager
def acting(directory: Path) -> Iterator[Session]:
    """A session on that hub's database; what is changed in it is the doing of this machine's user."""
    from flip_fl.hub import admin

    with admin.open_session(hub_settings(directory).database_url, this_user()) as session:
        yield session


def this_user() -> Actor:
    """Whose doing the audit calls what a command changes."""
    import getpass

    from flip_fl.hub.audit import Actor

    try:
        return Actor(getpass.getuser(), "cli")
    except (KeyError, OSError):
        # A container may run under a number that has no name.
        return Actor(f"uid {os.getuid()}", "cli")
