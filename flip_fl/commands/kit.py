"""``flip-fl kit …``: look at a kit before and after it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode

if TYPE_CHECKING:
    from flip_fl.commands.answers import Check
    from flip_fl.provision.files import Finding

_EXAMPLES = ("flip-fl kit verify kits/Trust_1", "flip-fl kit verify kits/server --host localhost --json")


def build() -> typer.Typer:
    """The group ``kit``."""
    group = typer.Typer(
        cls=guided_group(*_EXAMPLES),
        help="Look at a kit before and after it is installed.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    # A group of one command must still be a group.
    group.callback()(_group)
    group.command("verify", cls=guided(*_EXAMPLES, exits=(ExitCode.FAILED, ExitCode.UNREACHABLE)))(verify)
    return group


def _group() -> None:
    """Nothing is shared."""


def verify(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="KIT", help="The kit's folder.")],
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="The host you connect to (the one in the kit).")
    ] = None,
    clock: Annotated[
        str | None, typer.Option(metavar="URL", help="Compare this clock with the Date of this web server.")
    ] = None,
) -> Any:
    """Check a kit: its key, certificate, names, dates and file modes, and that no foreign key is in it.

    Ends with 1 when the kit fails; with 3 when only the host's name, a date or the clock keeps it from connecting.
    Without --clock nothing is asked over the network; whether the server answers is not looked at yet.
    """
    from flip_fl.commands.answers import KitVerified
    from flip_fl.commands.check_lines import check_lines
    from flip_fl.provision.clock import compare
    from flip_fl.provision.kit import read_kit
    from flip_fl.provision.verify import verdict
    from flip_fl.provision.verify import verify as look

    output = Output.of(context)
    kit = read_kit(folder)
    findings = look(kit, host=host, clock=compare(clock) if clock is not None else None)
    answer = KitVerified(folder, kit.name, kit.role.value, kit.net, host or kit.host, [_check(f) for f in findings])
    error = verdict(kit, findings)
    if error is None:
        output.answer(answer, check_lines(answer.checks))
        return int(ExitCode.DONE)
    if not output.common.json:
        output.answer(answer, check_lines(answer.checks))
    output.error(error, answer)
    return int(error.exit_code)


def _check(finding: Finding) -> Check:
    from flip_fl.commands.answers import Check

    return Check(finding.name, finding.state, finding.what, finding.why or None, finding.fix or None)
