"""``flip-fl job watch``: what a killed server process can no longer say of its run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from flip_fl.commands.job_options import KITS, found_settings, kit_words
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError
from flip_fl.jobs.decide import EVERY_S, GRACE_S, OUTBOX_PATIENCE_S, TIMEOUT_S, UNREACHABLE_AFTER_S, Limits

if TYPE_CHECKING:
    from flip_fl.jobs.decide import EngineRuns
    from flip_fl.jobs.watch import Watched

MODEL = "7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b"
EXAMPLES = (
    f"flip-fl job watch {MODEL} --kit kits",
    f"flip-fl job watch {MODEL} --run 1364027812 --connection net --unreachable-after 900 --json",
)


def watch(
    context: typer.Context,
    model_id: Annotated[UUID, typer.Argument(metavar="MODEL_ID", help="The model that the run reports on.")],
    run: Annotated[
        str | None, typer.Option("--run", metavar="JOB", help="The engine's id of the job (the model's newest).")
    ] = None,
    kit: Annotated[
        Path, typer.Option("--kit", metavar="DIR", help="The kit that jobs are submitted with, or all kits' folder.")
    ] = KITS,
    connection: Annotated[
        str | None,
        typer.Option(
            "--connection", metavar="NAME", help="Without a kit: the SuperLink's name in Flower's config.toml."
        ),
    ] = None,
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
    from flip_fl.jobs.watch import watch as follow

    output = Output.of(context)
    if connection is not None and (run is None or not run.isdecimal()):
        usage = f"flip-fl job watch {model_id} --run 1364027812 --connection {connection}"
        raise FlipError("E0102", problem="--connection needs --run with the id that flwr run told", usage=usage)
    # Only a kit may hold settings that are not known before.
    known = server_settings(settings) if connection is not None or settings is not None else None
    with _place(model_id, run, kit, connection) as place:
        loaded = known or found_settings(None, place.settings) or server_settings(place.settings)
        try:
            watched = follow(
                loaded,
                model_id,
                place.engine,
                place.job,
                limits=Limits(grace, unreachable_after, min(OUTBOX_PATIENCE_S, unreachable_after)),
                every_s=every,
                timeout_s=timeout,
                tell=output.note,
            )
        except KeyboardInterrupt:
            told = f"the run goes on. Watch it again: {place.again}; stop it: {place.stop}"
            raise KeyboardInterrupt(told) from None
    return _finish(output, model_id, place, watched)


@dataclass(frozen=True)
class _Place:
    """Where a job runs, the settings that lie beside, and the commands to go on with."""

    engine: EngineRuns
    job: str
    settings: Path | None
    again: str
    stop: str
    log: str


@contextlib.contextmanager
def _place(model_id: UUID, run: str | None, kit: Path, connection: str | None) -> Iterator[_Place]:
    again = f"flip-fl job watch {model_id}"
    if connection is not None:
        from flip_fl.jobs.flower import FlowerRuns

        assert run is not None, "checked before"
        yield _Place(
            FlowerRuns(connection),
            run,
            None,
            f"{again} --run {run} --connection {connection}",
            f"flwr stop {run} {connection}",
            f"flwr log {run} {connection} --show",
        )
        return
    from flip_fl.commands.job_engines import controlling_kit, engine_of, settings_in
    from flip_fl.jobs.engine import find_job

    found = controlling_kit(kit)
    engine = engine_of(found)
    words = kit_words(kit)
    try:
        job = run or find_job(engine, str(model_id)).job
        yield _Place(
            engine,
            job,
            settings_in(found),
            f"{again} --run {job} {words}".rstrip(),
            f"flip-fl job abort {job} {words}".rstrip(),
            f"flip-fl job logs {job} {words}".rstrip(),
        )
    finally:
        engine.close()


def _finish(output: Output, model_id: UUID, place: _Place, watched: Watched) -> int:
    from flip_fl.commands.job_answers import JobWatched
    from flip_fl.values import ModelStatus

    answer = JobWatched(
        model_id=model_id,
        engine=place.engine.engine.lower(),
        run=place.job,
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
    reason = watched.reason or "no reason given"
    error = (
        FlipError("E0511", reason=reason, fix=place.log)
        if watched.status is ModelStatus.STOPPED
        else FlipError("E0507", status=_word(watched.status), reason=reason, why=watched.note or "", fix=place.log)
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
