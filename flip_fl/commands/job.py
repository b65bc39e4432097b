"""``flip-fl job watch``: what a killed server process can no longer say of its run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError
from flip_fl.jobs.decide import EVERY_S, GRACE_S, OUTBOX_PATIENCE_S, TIMEOUT_S, UNREACHABLE_AFTER_S, Limits

if TYPE_CHECKING:
    from flip_fl.jobs.watch import Watched

ENGINES = ("flower",)
_MODEL = "7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b"
_EXAMPLES = (
    f"flip-fl job watch {_MODEL} --run 1364027812 --connection net",
    f"flip-fl job watch {_MODEL} --run 1364027812 --connection net --unreachable-after 900 --json",
)


def build() -> typer.Typer:
    """The group ``job``."""
    group = typer.Typer(
        cls=guided_group(*_EXAMPLES),
        help="Look after jobs on a federation.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    # A group of one command must still be a group.
    group.callback()(_group)
    exits = (
        ExitCode.FAILED,
        ExitCode.UNREACHABLE,
        ExitCode.UNAUTHORISED,
        ExitCode.STOPPED,
    )
    group.command("watch", cls=guided(*_EXAMPLES, exits=exits))(watch)
    return group


def _group() -> None:
    """Nothing is shared."""


def watch(
    context: typer.Context,
    model_id: Annotated[UUID, typer.Argument(metavar="MODEL_ID", help="The model that the run reports on.")],
    run: Annotated[int, typer.Option("--run", min=0, metavar="RUN_ID", help="The run's id, as flwr run told it.")],
    connection: Annotated[
        str, typer.Option("--connection", metavar="NAME", help="The SuperLink's name in Flower's config.toml.")
    ],
    engine: Annotated[str, typer.Option(metavar="NAME", help=f"One of: {', '.join(ENGINES)}.")] = ENGINES[0],
    settings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="The FL server's settings (./local/flip.env, $FLIP_SETTINGS_DIR/server.env)."
        ),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="Between two looks; each costs a second of processor time.")
    ] = EVERY_S,
    grace: Annotated[
        float, typer.Option(min=0, metavar="S", help="After the engine's end, for the run's own last reports.")
    ] = GRACE_S,
    unreachable_after: Annotated[
        float,
        typer.Option(min=0, metavar="S", help="Without an answer of the SuperLink the run has failed after this."),
    ] = UNREACHABLE_AFTER_S,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="S", help="Give up then, and leave everything as it is (7 days).")
    ] = TIMEOUT_S,
) -> Any:
    """Watch a run from outside and tell the hub how it ended, should its own process be killed.

    The run's own word always comes first: what it has left in its outbox on this machine is delivered, and a model
    that has ended at the hub is left as it is. Ends as the run ends: 0, 1 or 6. Ctrl-C ends the watching only.
    """
    from flip_fl.commands.origins import server_settings
    from flip_fl.jobs.flower import FlowerRuns
    from flip_fl.jobs.watch import watch as follow

    output = Output.of(context)
    if engine not in ENGINES:
        raise FlipError(
            "E0102",
            problem=f"the runs of '{engine}' cannot be watched yet",
            usage=" or ".join(f"--engine {name}" for name in ENGINES),
        )
    loaded = server_settings(settings)
    again = f"flip-fl job watch {model_id} --run {run} --connection {connection}"
    try:
        watched = follow(
            loaded,
            model_id,
            FlowerRuns(connection),
            str(run),
            limits=Limits(grace, unreachable_after, min(OUTBOX_PATIENCE_S, unreachable_after)),
            every_s=every,
            timeout_s=timeout,
            tell=output.note,
        )
    except KeyboardInterrupt:
        stop = f"flwr stop {run} {connection}"
        raise KeyboardInterrupt(f"the run goes on. Watch it again: {again}; stop it: {stop}") from None
    return _finish(output, model_id, engine, run, connection, watched)


def _finish(output: Output, model_id: UUID, engine: str, run: int, connection: str, watched: Watched) -> int:
    from flip_fl.commands.answers import JobWatched
    from flip_fl.values import ModelStatus

    answer = JobWatched(
        model_id=model_id,
        engine=engine,
        run=str(run),
        engine_state=watched.engine.state.value if watched.engine else None,
        status=watched.status.value,
        words=watched.words,
        reason=watched.reason,
        written=watched.written,
        note=watched.note,
    )
    if watched.status is ModelStatus.RESULTS_UPLOADED:
        output.answer(answer, _text(watched))
        return int(ExitCode.DONE)
    if not output.common.json:
        output.answer(answer, _text(watched))
    log = f"flwr log {run} {connection} --show"
    reason = watched.reason or "no reason given"
    error = (
        FlipError("E0511", reason=reason, fix=log)
        if watched.status is ModelStatus.STOPPED
        else FlipError("E0507", status=_word(watched.status), reason=reason, why=watched.note or "", fix=log)
    )
    output.error(error, answer)
    return int(error.exit_code)


def _word(status: Any) -> str:
    from flip_fl.dashboard.words import status_word

    return str(status_word(status))


def _text(watched: Watched) -> str:
    lines = [f"hub      {watched.words}"]
    if watched.engine is not None:
        lines.append(f"engine   {watched.engine.state}")
    lines.append(f"told by  {'this watchdog' if watched.written else 'the run, or somebody else'}")
    if watched.note:
        lines.append(f"note     {watched.note}")
    return "\n".join(lines)
