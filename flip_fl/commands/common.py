"""What every command shares: its options (--json, -q, -v, --color), its help, and how a wrong command line is told.

A command's help is one line, then examples that run as they stand, then options, then exit codes.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from typing import Any

import click
from typer.core import TyperCommand, TyperGroup

from flip_fl.commands.suggest import nearest
from flip_fl.errors import ExitCode, FlipError

EXIT_WORDS = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "the run or the check failed",
    ExitCode.USAGE: "wrong usage, app or settings",
    ExitCode.UNREACHABLE: "unreachable or timed out: trying again helps",
    ExitCode.UNAUTHORISED: "not authorised",
    ExitCode.REFUSED: "refused by a rule",
    ExitCode.STOPPED: "stopped by a person",
    ExitCode.BUG: "a bug of flip-fl",
    ExitCode.INTERRUPTED: "Ctrl-C",
}
_ALWAYS = (ExitCode.DONE, ExitCode.USAGE, ExitCode.BUG, ExitCode.INTERRUPTED)
_META = "flip_fl.common."
COLORS = ("auto", "always", "never")


@dataclass(frozen=True)
class Common:
    """The options that every command has."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    color: str = "auto"

    @classmethod
    def of(cls, context: click.Context) -> Common:
        """The common options of the command line that ``context`` belongs to."""
        names = ("json", "quiet", "verbose", "color")
        return cls(**{name: context.meta[_META + name] for name in names if _META + name in context.meta})

    @classmethod
    def scan(cls, argv: list[str]) -> Common:
        """The same from the bare words, for when they could not be parsed."""
        words = argv[: argv.index("--")] if "--" in argv else argv
        return cls(json="--json" in words, verbose=2 if "-vv" in words else 0)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
    context.meta[_META + str(parameter.name)] = value
    return value


def _common_options() -> list[click.Option]:
    return [
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="One JSON document on stdout, errors too.",
        ),
        click.Option(
            ["-q", "--quiet", "quiet"],
            is_flag=True,
            expose_value=False,
            callback=_keep,
            help="Only the answer and errors.",
        ),
        click.Option(
            ["-v", "--verbose", "verbose"],
            count=True,
            expose_value=False,
            callback=_keep,
            help="Requests with their times; -vv: the libraries' logs too.",
        ),
        click.Option(
            ["--color"],
            type=click.Choice(COLORS),
            default="auto",
            expose_value=False,
            callback=_keep,
            help="auto: off when piped, under NO_COLOR and TERM=dumb.",
        ),
    ]


_COMMON_NAMES = frozenset({"json", "quiet", "verbose", "color"})


def _write_help(
    command: click.Command,
    context: click.Context,
    formatter: click.HelpFormatter,
    examples: tuple[str, ...],
    exits: tuple[ExitCode, ...],
) -> None:
    formatter.write(f"{(command.help or '').strip()}\n")
    if examples:
        formatter.write("\nExamples:\n")
        # Examples are pasted into shells: never wrapped.
        formatter.write("".join(f"  {example}\n" for example in examples))
    formatter.write(f"\nUsage: {context.command_path} {' '.join(command.collect_usage_pieces(context))}\n")
    arguments, own, common = [], [], []
    for parameter in command.get_params(context):
        record = _help_record(parameter, context)
        if record is None:
            continue
        if isinstance(parameter, click.Argument):
            arguments.append(record)
        elif parameter.name in _COMMON_NAMES or "--help" in parameter.opts:
            common.append(record)
        else:
            own.append(record)
    for title, rows in (("Arguments", arguments), ("Options", own), ("Common options", common)):
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)
    if isinstance(command, click.Group):
        command.format_commands(context, formatter)
    codes = sorted({*_ALWAYS, *exits})
    formatter.write("\nExit codes:\n" + "".join(f"  {int(code):<4}{EXIT_WORDS[code]}\n" for code in codes))


def _help_record(parameter: click.Parameter, context: click.Context) -> tuple[str, str] | None:
    """A parameter's two columns. typer's own version would load rich, to escape markup that is switched off."""
    if isinstance(parameter, click.Argument):
        return parameter.make_metavar(context), getattr(parameter, "help", None) or ""
    if not isinstance(parameter, click.Option):
        return None
    record = click.Option.get_help_record(parameter, context)
    if record is None:
        return None
    return record[0], re.sub(r"\[(\d+)<=x<=(\d+)\]", r"[\1 to \2]", record[1])


class Command(TyperCommand):
    """A command of flip-fl. ``examples`` are whole command lines; ``exits`` the codes beside 0, 2, 70 and 130."""

    examples: tuple[str, ...] = ()
    exits: tuple[ExitCode, ...] = ()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_common_options()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            # The parser raises some of these without saying which command it was parsing.
            error.ctx = error.ctx or ctx
            raise

    def invoke(self, ctx: click.Context) -> Any:
        from flip_fl.commands import logs

        logs.configure(Common.of(ctx).verbose, os.environ.get("FLIP_LOG"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            # What was interrupted may say in what state it left things.
            raise FlipError("E0103", state=" ".join(str(word) for word in stop.args)) from None

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_help(self, ctx, formatter, self.examples, self.exits)


class CommandGroup(TyperGroup):
    """A group of commands that answers a mistyped one with the nearest it has."""

    examples: tuple[str, ...] = ()
    exits: tuple[ExitCode, ...] = tuple(ExitCode)

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_help(self, ctx, formatter, self.examples, self.exits)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        typed = args[0]
        if not ctx.resilient_parsing and not typed.startswith("-") and self.get_command(ctx, typed) is None:
            raise FlipError(
                "E0101", command=typed, fix=_runnable(ctx, nearest(typed, self.list_commands(ctx)), args[1:])
            )
        return super().resolve_command(ctx, args)


def guided(*examples: str, exits: tuple[ExitCode, ...] = ()) -> type[Command]:
    """A command class that carries its examples and exit codes."""
    return type("Command", (Command,), {"examples": examples, "exits": exits})


def guided_group(*examples: str) -> type[CommandGroup]:
    """A group class that carries its examples."""
    return type("CommandGroup", (CommandGroup,), {"examples": examples})


def _runnable(context: click.Context, found: list[str], rest: list[str]) -> str:
    if not found:
        return f"{context.command_path} --help"
    lines = (" ".join([context.command_path, name, *(shlex.quote(word) for word in rest)]) for name in found)
    return "   or   ".join(lines)
