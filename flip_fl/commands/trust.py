"""``flip-fl trust …``: a trust's data-access and imaging services for the sandbox, what they hold, and project ids."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError, printable

if TYPE_CHECKING:
    from flip_fl.settings import TrustSettings
    from flip_fl.trust.load import LoadedCohort

DEFAULT_PORT = 8001
HERE = Path("trust")
SETTINGS, CLIENT = "trust.env", "client.env"
NET = "sandbox"
_EXAMPLES = (
    "flip-fl trust init --dir trust",
    "flip-fl trust load --settings trust/trust.env --cohort cohort.csv --images studies --project Stroke",
    "flip-fl trust envelope Stroke --settings trust/trust.env",
    "flip-fl trust serve --settings trust/trust.env",
)

SettingsOption = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="The trust's settings file; without one, the environment."),
]


def build() -> typer.Typer:
    """The group ``trust``."""
    group = typer.Typer(
        cls=guided_group(_EXAMPLES[0], _EXAMPLES[1], _EXAMPLES[3]),
        help="Serve a trust's cohort and images in the sandbox, and fill it.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    exits = (ExitCode.UNREACHABLE,)
    group.command("init", cls=guided(_EXAMPLES[0], "flip-fl trust init --dir other-trust --json"))(init)
    group.command("serve", cls=guided(_EXAMPLES[3], f"{_EXAMPLES[3]} --port 0", exits=exits))(serve)
    group.command(
        "load",
        cls=guided(
            _EXAMPLES[1],
            "flip-fl trust load --settings trust/trust.env --project P --approve 'SELECT * FROM omop.cohort' --json",
            exits=(*exits, ExitCode.REFUSED),
        ),
    )(load)
    group.command("envelope", cls=guided(_EXAMPLES[2], f"{_EXAMPLES[2]} --json"))(envelope)
    return group


def init(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Option("--dir", metavar="DIR", help="The trust's folder: its settings, database, archive, images.")
    ] = HERE,
) -> Any:
    """Make a trust's folder with settings and fresh keys; one that is there stays as it is.

    trust.env is the trust's own; client.env are the settings of an FL client, which has the trust's key. The database
    is SQLite in the folder, or OMOP_DATABASE_URL (never an option: it may hold a password).
    """
    from flip_fl.commands.answers import TrustMade
    from flip_fl.commands.origins import masked
    from flip_fl.trust.home import make

    output = Output.of(context)
    home = directory.resolve()
    created = make(home / SETTINGS, home / CLIENT, net=NET, port=DEFAULT_PORT)
    settings = _settings(home / SETTINGS)
    url = masked(settings.database_url)
    lines = [
        f"trust     {'created' if created else 'already there'}: {directory}",
        f"database  {url}",
        f"settings  {directory / SETTINGS}   (with keys: for --settings)",
        f"client    {directory / CLIENT}   (FLIP(settings_file=…) asks this trust with it)",
    ]
    answer = TrustMade(home / SETTINGS, home / CLIENT, url, settings.archive, settings.images_root, created)
    output.answer(answer, "\n".join(lines))
    output.next_step(f"flip-fl trust load --settings {directory / SETTINGS} --cohort cohort.csv --project NAME")
    return int(ExitCode.DONE)


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
    if settings.trust_key is None:
        output.note("TRUST_INTERNAL_SERVICE_KEY is not set: every request will be refused")
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
    from flip_fl.data.cohort import read_cohort, studies_of
    from flip_fl.trust import load as loading

    output = Output.of(context)
    settings = _settings(settings_file)
    lines = []
    told = studies = missing = approved = None
    if cohort is not None and images is not None:
        # Before anything is replaced: a wrong folder is no news after an hour of copying.
        named = studies_of(read_cohort(cohort))
        missing = loading.missing_studies(images, named)
    if cohort is not None:
        told = loading.load_cohort(settings.database_url, cohort, long_form=not cohort_only)
        released = told.persons if settings.threshold_counts == "subjects" else told.rows
        notes = f"{_how_told(told)}{_too_few(released, settings)}"
        lines.append(f"cohort    {told.rows} rows, {told.columns} columns, {told.persons} persons{notes}")
    if images is not None:
        studies = loading.load_images(settings.archive, images)
        lacking = f"; of the cohort's {len(named)} studies {missing} are not among them" if missing else ""
        lines.append(f"images    {studies.studies} studies, {studies.files} files{lacking}")
    if project is not None:
        loading.register_project(settings.database_url, project)
        lines.append(f"project   {project}")
        if approve is not None:
            approved = loading.approve(settings.database_url, project, approve)
            lines.append(f"approved  {approved} rows{_too_few(approved, settings)}")
    answer = TrustLoaded(
        database=masked(settings.database_url),
        archive=settings.archive,
        rows=None if told is None else told.rows,
        persons=None if told is None else told.persons,
        studies=None if studies is None else studies.studies,
        missing_studies=missing,
        project=project,
        approved_rows=approved,
    )
    output.answer(answer, "\n".join(lines))
    output.next_step("flip-fl trust serve" + ("" if settings_file is None else f" --settings {settings_file}"))
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
    output = Output.of(context)
    if not _may_know(settings, project):
        # A misspelt name would only be refused later, in words that do not say so.
        output.note(f"the trust has no project '{printable(project)}' yet: flip-fl trust load --project makes it known")
    output.answer(TrustEnvelope(project, sealed), sealed)
    return int(ExitCode.DONE)


def _may_know(settings: TrustSettings, project: str) -> bool:
    """Whether the trust knows the project, or its database cannot say."""
    from flip_fl.trust.databases import open_database
    from flip_fl.trust.own import find_project
    from flip_fl.trust.refusal import Refusal

    try:
        with contextlib.closing(open_database(settings.database_url)) as database:
            return find_project(database, project) is not None
    except (FlipError, Refusal):
        return True


def _how_told(told: LoadedCohort) -> str:
    if told.person_column == "person_id":
        return ""
    return f" (there is no column person_id: each {told.person_column or 'row'} counts as one)"


def _too_few(rows: int, settings: TrustSettings) -> str:
    if rows >= settings.threshold:
        return ""
    return f" (fewer than COHORT_QUERY_THRESHOLD, {settings.threshold}: whoever asks for them is refused)"


def _settings(file: Path | None) -> TrustSettings:
    from flip_fl.settings import TrustSettings, load

    return load(TrustSettings, file)


def _usage(problem: str) -> FlipError:
    return FlipError("E0102", problem=problem, usage=_EXAMPLES[1])
