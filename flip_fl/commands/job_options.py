"""What the commands on jobs share."""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from flip_fl.settings import ServerSettings

KITS = Path("kits")
KitOption = Annotated[
    Path,
    typer.Option(
        "--kit",
        metavar="DIR",
        help="The kit that jobs are submitted with (NVFLARE: the administrator's, Flower: the server's), or all kits' "
        "folder.",
    ),
]


def kit_words(kit: Path) -> str:
    """How a further command is told the same kit."""
    return "" if kit == KITS else f"--kit {shlex.quote(str(kit))}"


def found_settings(given: Path | None, in_kit: Path | None) -> ServerSettings | None:
    """The FL server's settings: those ``given``, else the kit's where they are filled in, else those of this place.

    None where none are complete. Raises ``FlipError`` E0401, E0404 for what was ``given``.
    """
    from flip_fl.commands.origins import server_settings

    if given is not None:
        return server_settings(given)
    for file in (in_kit, None):
        with contextlib.suppress(FlipError):
            return server_settings(file)
    return None
