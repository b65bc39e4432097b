"""``flip-fl new NAME``: writes a neutral app that runs at once."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from flip_fl.commands.common import guided
from flip_fl.commands.output import Output
from flip_fl.commands.suggest import did_you_mean
from flip_fl.errors import ExitCode, FlipError
from flip_fl.values import JobType

# The name is a folder's, and of a run's folder, and stands in commands that are pasted.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def register(app: typer.Typer) -> None:
    app.command(
        "new",
        cls=guided(
            "flip-fl new my_app",
            "flip-fl new my_scans --job-type fed_opt --imaging",
            "flip-fl new my_evaluation --job-type evaluation --json",
            exits=(ExitCode.REFUSED,),
        ),
    )(new)


def new(
    context: typer.Context,
    name: Annotated[Path, typer.Argument(metavar="NAME", help="The app's folder; it must not exist yet.")],
    job_type: Annotated[
        str, typer.Option(metavar="TYPE", help=f"One of: {', '.join(job.value for job in JobType)}.")
    ] = JobType.STANDARD.value,
    imaging: Annotated[
        bool, typer.Option("--imaging", help="Patients have studies (NIfTI); without it they are rows of a table.")
    ] = False,
) -> Any:
    """Write a neutral app that runs at once, on real data that come with scikit-learn, to be changed from there.

    The app runs on both engines. Its README says what each file is for.
    """
    from flip_fl.commands.app_answers import AppMade
    from flip_fl.jobs.app_templates import write_new_app

    output = Output.of(context)
    kind = _kind(job_type)
    if not _NAME.fullmatch(name.name):
        problem = f"'{name.name or name}' cannot be an app's name: letters, digits, '_', '-' and '.', 64 at the most"
        raise FlipError("E0102", problem=problem, usage="flip-fl new my_app")
    files = write_new_app(name, kind, imaging=imaging)
    run = shlex.join(["flip-fl", "run", str(name)])
    output.answer(AppMade(name, kind.value, imaging, list(files), run), "\n".join(str(name / file) for file in files))
    output.next_step(run)
    return int(ExitCode.DONE)


def _kind(job_type: str) -> JobType:
    try:
        return JobType(job_type)
    except ValueError:
        known = [job.value for job in JobType]
        near = did_you_mean(job_type, known) or f"--job-type {known[0]}"
        problem = f"--job-type is '{job_type}'; it must be one of {', '.join(known)}"
        raise FlipError("E0102", problem=problem, usage=near) from None
