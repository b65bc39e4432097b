"""``flip-fl doctor``: what is installed, set, reachable and waiting to be sent; without ``--hub``, no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import ExitCode, FlipError, printable

if TYPE_CHECKING:
    from flip_fl.commands.answers import Check, DoctorAnswer, Setting

_ASKED = frozenset({ExitCode.UNREACHABLE, ExitCode.UNAUTHORISED})


_FIX_KEY = "set INTERNAL_SERVICE_KEY to the key that `flip-fl hub init` showed (a new one: flip-fl hub key rotate)"


def register(app: typer.Typer) -> None:
    app.command(
        "doctor",
        cls=guided(
            "flip-fl doctor",
            "flip-fl doctor --hub --keys --config --json",
            "flip-fl doctor --federation --kits kits",
            exits=(ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.UNAUTHORISED),
        ),
    )(doctor)


def doctor(
    context: typer.Context,
    hub: Annotated[bool, typer.Option("--hub", help="Ask the hub whether it is there and takes the key.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="Compare the keys here, then ask the hub.")] = False,
    config: Annotated[
        bool, typer.Option("--config", help="List every setting, its source and what it overrides.")
    ] = False,
    federation: Annotated[
        bool, typer.Option("--federation", help="Compare the hub's slots with the kits and with who is connected.")
    ] = False,
    kits: Annotated[
        Path, typer.Option(metavar="DIR", help="Where the kits were made, with ca/ in it (--federation).")
    ] = Path("kits"),
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The state folder with the outboxes (FLIP_STATE_DIR).")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The settings file (./local/flip.env, $FLIP_SETTINGS_DIR/server.env)."),
    ] = None,
) -> Any:
    """Check this installation, its settings, its outboxes and, with --hub or --keys, the hub.

    Ends with 1 when a check failed; with 3 or 4 when nothing failed but the hub's address or its key.
    """
    from flip_fl.commands import checks
    from flip_fl.commands.answers import DoctorAnswer
    from flip_fl.commands.origins import Origins, find_file

    output = Output.of(context)
    file = find_file(settings)
    if file is not None and not file.is_file():
        raise FlipError("E0404", name="--settings", value=file, expected="a readable file", place="the command line")
    origins = Origins(file)
    told, rows = checks.outboxes(origins, state)
    done = [
        *checks.installation(origins),
        *checks.configuration(origins),
        *told,
        checks.isolation(origins),
        checks.disk(origins, state),
    ]
    errors: list[FlipError] = []
    if keys:
        done.append(checks.local_keys(origins))
    if hub or keys:
        asked, errors = checks.hub(origins, fix_key=_FIX_KEY if keys else None)
        done += asked
    if federation:
        from flip_fl.commands.federation_check import federation as compare
        from flip_fl.commands.federation_check import settings_file
        from flip_fl.commands.origins import server_settings

        compared, more = compare(server_settings(file or settings_file(kits)), kits)
        done += compared
        errors = [*errors, *more]
    answer = DoctorAnswer(checks=done, settings=origins.table() if config else [], outboxes=rows)
    failed = [check for check in done if check.state == "fail"]
    if not failed:
        output.answer(answer, _text(answer))
        return int(ExitCode.DONE)
    error = _verdict(done, failed, errors)
    if not output.common.json:
        output.answer(answer, _text(answer))
    output.error(error, answer)
    return int(error.exit_code)


def _verdict(done: list[Check], failed: list[Check], errors: list[FlipError]) -> FlipError:
    """The hub's own error when nothing else failed; it says more than a count."""
    if len(errors) == len(failed) and errors[0].exit_code in _ASKED:
        return errors[0]
    first = failed[0]
    return FlipError(
        "E0801",
        count=len(failed),
        total=len(done),
        names=", ".join(check.name for check in failed),
        first=f"{first.name}: {first.what}",
        suggestion=first.fix or "see the checks above",
    )


def _text(answer: DoctorAnswer) -> str:
    width = max(len(check.name) for check in answer.checks)
    lines = []
    for check in answer.checks:
        lines.append(f"{check.state:<4}  {check.name.ljust(width)}  {printable(check.what)}")
        for word, value in (("why", check.why), ("fix", check.fix)):
            if value:
                lines.append(f"{'':<4}  {'':<{width}}  {word}: {printable(value)}")
    if answer.settings:
        lines += ["", _settings_text(answer.settings)]
    return "\n".join(lines)


def _settings_text(rows: list[Setting]) -> str:
    body = [[row.name, row.value or "", row.source, ", ".join(row.overrides)] for row in rows]
    return table(["setting", "value", "source", "overrides"], body)
