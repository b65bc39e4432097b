"""``flip-fl job …``: submit, list, watch, abort, read logs; the same words for both engines."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from flip_fl.commands.asking import YesOption, confirm
from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.job_options import KITS, KitOption, found_settings, kit_words
from flip_fl.commands.job_watch import EXAMPLES, MODEL, watch
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.jobs.abort import Aborted
    from flip_fl.jobs.engine import EngineJob, FederationJobs
    from flip_fl.provision.kit import Kit

_SUBMIT = (
    f"flip-fl job submit my_app --model {MODEL} --kit kits",
    f"flip-fl job submit my_app --model {MODEL} --site Trust_1 --site Trust_2 --project P --json",
)
_LIST = ("flip-fl job list --kit kits", "flip-fl job list --json")
_ABORT = (f"flip-fl job abort {MODEL} --yes", f"flip-fl job abort {MODEL} --reason 'wrong cohort' --yes --json")
_LOGS = (f"flip-fl job logs {MODEL}", f"flip-fl job logs {MODEL} --kit kits --json")
SettingsOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The FL server's settings, to tell the hub (those in the kit, ./local)."),
]
_ASKING = (ExitCode.FAILED, ExitCode.UNREACHABLE)


def build() -> typer.Typer:
    """The group ``job``."""
    group = typer.Typer(
        cls=guided_group(_SUBMIT[0], EXAMPLES[0], _ABORT[0]),
        help="Submit jobs to a federation and look after them.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    group.command("submit", cls=guided(*_SUBMIT, exits=(*_ASKING, ExitCode.REFUSED)))(submit)
    group.command("list", cls=guided(*_LIST, exits=_ASKING))(list_jobs)
    watching = (ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.UNAUTHORISED, ExitCode.STOPPED)
    group.command("watch", cls=guided(*EXAMPLES, exits=watching))(watch)
    group.command("abort", cls=guided(*_ABORT, exits=_ASKING))(abort)
    group.command("logs", cls=guided(*_LOGS, exits=_ASKING))(logs)
    return group


def submit(
    context: typer.Context,
    app: Annotated[Path, typer.Argument(metavar="APP", help="The app's folder.")],
    model_id: Annotated[UUID, typer.Option("--model", metavar="MODEL_ID", help="The hub's model that it reports on.")],
    sites: Annotated[
        list[str] | None,
        typer.Option("--site", metavar="SLOT", help="A slot that takes part, once for each (all connected ones)."),
    ] = None,
    project: Annotated[
        str, typer.Option("--project", metavar="ID", help="The project's id, as the trusts' services take it.")
    ] = "",
    settings: SettingsOption = None,
    kit: KitOption = KITS,
) -> Any:
    """Check an app and submit it as a job for a model; the same again while it is there changes nothing.

    A model whose last run has ended is pending again at the hub.
    """
    from flip_fl.app.checks import check_app
    from flip_fl.app.packages import app_folder
    from flip_fl.commands.job_answers import JobSubmitted
    from flip_fl.commands.job_engines import settings_in, writer_of
    from flip_fl.jobs.submit import queue_again
    from flip_fl.jobs.submit import submit as send
    from flip_fl.jobs.templates import JobValues
    from flip_fl.values import natural_key

    output = Output.of(context)
    with _federation(kit) as (found, engine):
        slots = tuple(sorted(sites or engine.sites(), key=natural_key))
        if not slots:
            fix = "start a site's kit, or name the slots to wait for: --site Trust_1"
            raise FlipError("E0548", problem="none is connected", fix=fix)
        config = check_app(app_folder(app), slots).config
        loaded = found_settings(settings, settings_in(found))
        queue = partial(queue_again, loaded, model_id) if loaded is not None and loaded.hub_token else None
        done = send(engine, config, slots, model_id, project, writer_of(found, config), queue)
        rounds = JobValues.of(config, slots, model_id).num_rounds
        answer = JobSubmitted(done.job, model_id, engine.engine.lower(), list(slots), rounds, done.already)
    if queue is None:
        output.note("the hub was not asked for this model: no settings of the FL server with FLIP_HUB_TOKEN were found")
    word = "already there" if done.already else "submitted"
    output.answer(answer, f"{word}: job {done.job}, {rounds} rounds at {', '.join(slots)}")
    output.next_step(f"flip-fl job watch {model_id} {kit_words(kit)}".rstrip())
    return int(ExitCode.DONE)


def list_jobs(context: typer.Context, kit: KitOption = KITS) -> Any:
    """List the federation's jobs, the newest first."""
    from flip_fl.commands.job_answers import JobRow, Jobs
    from flip_fl.commands.table import table

    with _federation(kit) as (_, engine):
        found = engine.jobs()
        name = engine.engine.lower()
    rows = [JobRow(j.job, j.model_id, j.state.value, j.details, j.submitted_at, j.seconds) for j in found]
    body = [
        [
            row.job,
            str(row.model_id or "-"),
            row.state,
            f"{row.submitted_at:%Y-%m-%d %H:%M}" if row.submitted_at else "-",
            f"{row.seconds:.0f} s" if row.seconds is not None else "-",
            row.details,
        ]
        for row in rows
    ]
    text = table(["job", "model", "state", "submitted", "ran", ""], body) if rows else "no jobs"
    Output.of(context).answer(Jobs(name, rows), text)
    return int(ExitCode.DONE)


def abort(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The model's id (its newest job), or the engine's.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the hub.")] = "",
    yes: YesOption = False,
    settings: SettingsOption = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="S", help="How long to wait until the engine says that it has ended.")
    ] = 60.0,
    kit: KitOption = KITS,
) -> Any:
    """Stop a job for good: the hub is told first, then the engine. What was measured stays at the hub."""
    from flip_fl.commands.job_answers import JobAborted
    from flip_fl.commands.job_engines import settings_in
    from flip_fl.jobs.abort import abort as end
    from flip_fl.jobs.engine import find_job

    output = Output.of(context)
    confirm(job, "a job is stopped for good", f"flip-fl job abort {job} {kit_words(kit)}".rstrip(), yes)
    with _federation(kit) as (found, engine):
        there = find_job(engine, job)
        loaded = found_settings(settings, settings_in(found))
        why = f"stopped by {getpass.getuser()} with flip-fl job abort" + (f": {reason}" if reason else "")
        done = end(engine, there, loaded, why, timeout_s=timeout)
    answer = JobAborted(done.job, done.model_id, done.state.value, done.hub_told, done.why_not, done.already)
    output.answer(answer, _ended(done, there))
    if done.why_not is not None:
        output.note(
            f"the hub was not told: {done.why_not}. It is with: flip-fl job watch {done.model_id or 'MODEL_ID'}"
        )
    if not done.state.is_final:
        raise FlipError("E0542", seconds=f"{timeout:.0f}", awaited=f"the job's end at {engine.engine}")
    return int(ExitCode.DONE)


def logs(
    context: typer.Context,
    job: Annotated[str, typer.Argument(metavar="JOB", help="The model's id (its newest job), or the engine's.")],
    kit: KitOption = KITS,
) -> Any:
    """Show what a job's part at the server has logged. What a site logs stays at the site."""
    from flip_fl.commands.job_answers import JobLogs
    from flip_fl.jobs.engine import find_job

    with _federation(kit) as (_, engine):
        there = find_job(engine, job)
        text = engine.logs(there.job)
    Output.of(context).answer(JobLogs(there.job, text), text or "nothing is logged yet")
    return int(ExitCode.DONE)


@contextlib.contextmanager
def _federation(path: Path) -> Iterator[tuple[Kit, FederationJobs]]:
    from flip_fl.commands.job_engines import controlling_kit, engine_of

    kit = controlling_kit(path)
    engine = engine_of(kit)
    try:
        yield kit, engine
    finally:
        engine.close()


def _ended(done: Aborted, before: EngineJob) -> str:
    if done.already:
        return f"job {done.job} had ended: {before.state.value}"
    return f"job {done.job}: {done.state.value}" + ("; the hub says Stopped" if done.hub_told else "")
