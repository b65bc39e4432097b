"""``flip-fl trust …``: a trust's data-access and imaging services for the sandbox, what they hold, and project ids."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.settings import TrustSettings

DEFAULT_PORT = 8001
_EXAMPLES = (
    "flip-fl trust load --settings trust.env --cohort cohort.csv --images studies --project Stroke",
    "flip-fl trust envelope Stroke --settings trust.env",
    "flip-fl trust serve --settings trust.env",
)

SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="The trust's settings file; without one, the environment."),
]


def build() -> typer.Typer:
    """The group ``trust``."""
    group = typer.Typer(
        cls=guided_group(*_EXAMPLES),
        help="Serve a trust's cohort and images in the sandbox, and fill it.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    exits = (ExitCode.UNREACHABLE,)
    group.command("serve", cls=guided(_EXAMPLES[2], "flip-fl trust serve --settings trust.env --port 0", exits=exits))(
        serve
    )
    group.command(
        "load",
        cls=guided(
            _EXAMPLES[0],
            "flip-fl trust load --settings trust.env --project Stroke --approve 'SELECT * FROM omop.cohort' --json",
            exits=(*exits, ExitCode.REFUSED),
        ),
    )(load)
    group.command("envelope", cls=guided(_EXAMPLES[1], "flip-fl trust envelope Stroke --settings trust.env --json"))(
        envelope
    )
    return group


def serve(
    context: typer.Context,
    settings_file: SettingsOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: a free one.")] = DEFAULT_PORT,
) -> Any:
    """Serve a trust's data-access and imaging services on 127.0.0.1 until Ctrl-C or SIGTERM; one address for both.

    OMOP_DATABASE_URL, IMAGES_ROOT, FLIP_TRUST_ARCHIVE and FLIP_TRUST_ENVELOPE_KEY must be set. Without
    TRUST_INTERNAL_SERVICE_KEY nobody is let in. FLIP_TRUST_COHORT=frozen serves what was approved, not the SQL sent.
    """
    from flip_fl.commands import logs
    from flip_fl.commands.serving import until_stopped
    from flip_fl.trust.server import serve as serve_trust

    output = Output.of(context)
    logs.warn_on_stderr()
    settings = _settings(settings_file)
    return until_stopped(
        output,
        lambda port_file: serve_trust(settings, port=port, port_file=port_file),
        name="the trust",
        answers_at=lambda bound: f"the trust answers at http://127.0.0.1:{bound}",
    )


def load(
    context: typer.Context,
    cohort: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Make the OMOP tables, and omop.cohort, anew from this file.")
    ] = None,
    cohort_only: Annotated[
        bool, typer.Option("--cohort-only", help="Leave measurement and observation empty: faster for large files.")
    ] = False,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy each study (a folder named by its accession number).")
    ] = None,
    project: Annotated[str | None, typer.Option(metavar="NAME", help="Make this project known to the trust.")] = None,
    approve: Annotated[
        str | None, typer.Option(metavar="SQL", help="Freeze what this selects now as the project's cohort.")
    ] = None,
    settings_file: SettingsOption = None,
) -> Any:
    """Fill a trust: its database from a CSV, its archive from a folder of studies, its projects.

    What is loaded again takes the place of what was there. Only projects that were made known get images.
    """
    if (cohort, images, project) == (None, None, None):
        raise _usage("flip-fl trust load needs --cohort, --images or --project")
    if approve is not None and project is None:
        raise _usage("--approve goes with --project: a cohort is approved for a project")
    if cohort_only and cohort is None:
        raise _usage("--cohort-only goes with --cohort")

    from flip_fl.commands.answers import TrustLoaded
    from flip_fl.commands.origins import masked
    from flip_fl.trust import load as loading

    output = Output.of(context)
    settings = _settings(settings_file)
    lines = []
    told = studies = approved = None
    if cohort is not None:
        told = loading.load_cohort(settings.database_url, cohort, long_form=not cohort_only)
        lines.append(f"cohort    {told.rows} rows, {told.columns} columns, {told.persons} persons")
    if images is not None:
        studies = loading.load_images(settings.archive, images)
        lines.append(f"images    {studies.studies} studies, {studies.files} files")
    if project is not None:
        loading.register_project(settings.database_url, project)
        lines.append(f"project   {project}")
        if approve is not None:
            approved = loading.approve(settings.database_url, project, approve)
            lines.append(f"approved  {approved} rows")
    answer = TrustLoaded(
        database=masked(settings.database_url),
        archive=settings.archive,
        rows=None if told is None else told.rows,
        persons=None if told is None else told.persons,
        studies=None if studies is None else studies.studies,
        project=project,
        approved_rows=approved,
    )
    output.answer(answer, "\n".join(lines))
    output.next_step("flip-fl trust serve")
    return int(ExitCode.DONE)


def envelope(
    context: typer.Context,
    project: Annotated[str, typer.Argument(metavar="PROJECT", help="The project's name at the trust.")],
    settings_file: SettingsOption = None,
) -> Any:
    """Print the project id that jobs carry: the project's name, sealed under FLIP_TRUST_ENVELOPE_KEY."""
    from flip_fl.commands.answers import TrustEnvelope
    from flip_fl.trust.envelope import Envelope

    settings = _settings(settings_file)
    try:
        sealed = Envelope(settings.envelope_key.get_secret_value()).seal(project)
    except ValueError:
        raise FlipError("E0955", project=project) from None
    Output.of(context).answer(TrustEnvelope(project, sealed), sealed)
    return int(ExitCode.DONE)


def _settings(file: Path | None) -> TrustSettings:
    from flip_fl.settings import TrustSettings, load

    return load(TrustSettings, file)


def _usage(problem: str) -> FlipError:
    return FlipError("E0102", problem=problem, usage=_EXAMPLES[0])
