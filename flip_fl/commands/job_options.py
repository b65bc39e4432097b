"""What the commands on jobs share."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

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
