"""``flip-fl check APP``: what an app is, what it will run as, what it lacks, and what would leave a trust."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided
from flip_fl.commands.output import Output
from flip_fl.commands.suggest import did_you_mean
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.app.inspection import Inspection
    from flip_fl.commands.app_answers import CheckAnswer


def register(app: typer.Typer) -> None:
    app.command(
        "check",
        cls=guided(
            "flip-fl check examples/breast_cancer",
            "flip-fl check examples/breast_cancer --engine flower --sites 2 --json",
            "flip-fl check examples/breast_cancer --static",
            exits=(ExitCode.FAILED,),
        ),
    )(check)


def check(
    context: typer.Context,
    app_dir: Annotated[Path, typer.Argument(metavar="APP_DIR", help="The app's folder, or the one above a package.")],
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="It must run on this one: nvflare or flower (either).")
    ] = None,
    sites: Annotated[
        int | None, typer.Option(min=1, max=100, metavar="N", help="Also whether weights and quorum fit N sites.")
    ] = None,
    static: Annotated[
        bool, typer.Option("--static", help="Only read the files: none of the app's code is run, anywhere.")
    ] = False,
) -> Any:
    """Say which form an app has, what it will run as, what it lacks, and what would leave a trust.

    The app's source is read. Where nothing is wrong with it, it is also imported and its model built, in a process of
    its own without a key; --static leaves that out. For an executor-style app: what to change, line by line. Ends with
    1 when the app cannot run.
    """
    from flip_fl.app.inspection import inspect_app
    from flip_fl.commands.check_answer import answer_of, text_of
    from flip_fl.commands.run import check_app_folder
    from flip_fl.simulate.model import ENGINES

    output = Output.of(context)
    if engine is not None and engine not in ENGINES:
        near = did_you_mean(engine, ENGINES) or f"--engine {ENGINES[0]}"
        raise FlipError("E0510", engine=engine, engines=", ".join(ENGINES), suggestion=near)
    check_app_folder(app_dir, "check")
    slots = tuple(f"Trust_{number}" for number in range(1, (sites or 0) + 1))
    found = inspect_app(app_dir, slots=slots, engine=engine, build=not static)
    answer = answer_of(found)
    if not found.problems:
        output.answer(answer, text_of(answer))
        output.next_step(_next(app_dir, found, engine, sites))
        return int(ExitCode.DONE)
    if not output.common.json:
        output.answer(answer, text_of(answer))
    error = _verdict(app_dir, found, answer, engine)
    output.error(error, answer)
    return int(error.exit_code)


def _verdict(app_dir: Path, found: Inspection, answer: CheckAnswer, engine: str | None) -> FlipError:
    first, count = found.problems[0], len(found.problems)
    suggestion = first.fix or "see the list above"
    if answer.changes:
        suggestion = f"change the {len(answer.changes)} lines listed; flip-fl new writes an app to put them into"
    return FlipError(
        "E0218",
        where=first.where,
        app=app_dir,
        where_to=f" on {engine}" if engine else "",
        count="one thing" if count == 1 else f"{count} things",
        first=first.what,
        suggestion=suggestion,
    )


def _next(app_dir: Path, found: Inspection, engine: str | None, sites: int | None) -> str:
    can = [each.engine for each in found.runs if each.runs]
    chosen = engine or can[0]
    words = ["flip-fl", "run", str(app_dir), "--engine", chosen, *(["--sites", str(sites)] if sites else [])]
    return shlex.join(words)
