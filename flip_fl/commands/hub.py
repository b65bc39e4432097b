"""``flip-fl hub …``: make a hub, serve it, and say who takes part. Everything lies in one folder, ``./hub``."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from flip_fl.commands import hub_keep, hub_members, hub_sweep
from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.hub_home import DATABASE, HERE, SETTINGS, DirOption, hub_settings, this_user
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode

DEFAULT_PORT = 8000


def build() -> typer.Typer:
    """The group ``hub`` with the groups of ``hub_members`` and ``hub_access``."""
    group = typer.Typer(
        cls=guided_group(
            "flip-fl hub init --slots 2",
            "flip-fl hub trust add 'Guys and St Thomas' --code GSTT",
            "flip-fl hub slot assign 'Guys and St Thomas'",
        ),
        help="Make a hub, serve it, and say who takes part.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    group.command(
        "init",
        cls=guided(
            "flip-fl hub init --slots 2", "flip-fl hub init --dir other-hub --json", exits=(ExitCode.UNREACHABLE,)
        ),
    )(init)
    group.command(
        "serve",
        cls=guided("flip-fl hub serve --port 8000", "flip-fl hub serve --dir other-hub", exits=(ExitCode.UNREACHABLE,)),
    )(serve)
    group.command("sweep", cls=guided(*hub_sweep.EXAMPLES, exits=(ExitCode.UNREACHABLE,)))(hub_sweep.sweep)
    hub_keep.register(group)
    for name, below in hub_members.build():
        group.add_typer(below, name=name)
    return group


def init(
    context: typer.Context,
    directory: DirOption = HERE,
    slots: Annotated[
        int, typer.Option(min=0, max=1000, metavar="N", help="Make sure that Trust_1 … Trust_N exist.")
    ] = 0,
) -> Any:
    """Create a hub's database and service key; a second time it only brings the database up to date.

    The database is hub.sqlite in the folder, or FLIP_HUB_DATABASE_URL (never an option: it may hold a password).
    The key is shown once. The hub keeps only its hash.
    """
    from flip_fl.commands.answers import HubMade
    from flip_fl.commands.origins import masked
    from flip_fl.hub import admin
    from flip_fl.settings import HubSettings, load, write_settings_file

    output = Output.of(context)
    file = directory / SETTINGS
    there = file.is_file()
    if there:
        settings = load(HubSettings, file)
        url, key, key_hash = settings.database_url, None, settings.service_key_hash
    else:
        url = os.environ.get("FLIP_HUB_DATABASE_URL") or f"sqlite:///{directory.resolve() / DATABASE}"
        key, key_hash = admin.new_service_key()
    directory.mkdir(parents=True, exist_ok=True)
    admin.init_database(url)
    if slots:
        with admin.open_session(url, this_user()) as session:
            admin.seed_slots(session, slots)
    if key is not None:
        write_settings_file(file, {"FLIP_HUB_DATABASE_URL": url, "INTERNAL_SERVICE_KEY_HASH": key_hash})
    answer = HubMade(masked(url), file, not there, key)
    lines = [f"hub       {'already there' if there else 'created'}: {directory}", f"database  {masked(url)}"]
    lines.append(f"settings  {file}")
    if key is not None:
        lines.append(f"key       {key}   (INTERNAL_SERVICE_KEY of the FL server; shown only now)")
    output.answer(answer, "\n".join(lines))
    output.next_step(f"flip-fl hub token add NAME --dir {directory}")
    return 0


def serve(
    context: typer.Context,
    directory: DirOption = HERE,
    port: Annotated[int, typer.Option(min=0, max=65535, help="On 127.0.0.1; 0: a free one.")] = DEFAULT_PORT,
) -> Any:
    """Serve a hub on 127.0.0.1 until Ctrl-C or SIGTERM. The API is below /api."""
    from flip_fl.commands import logs
    from flip_fl.commands.serving import until_stopped
    from flip_fl.hub.server import serve as serve_hub

    output = Output.of(context)
    logs.warn_on_stderr()
    settings = hub_settings(directory)
    return until_stopped(
        output,
        lambda port_file: serve_hub(settings, port=port, port_file=port_file),
        name="the hub",
        answers_at=lambda bound: f"the hub in {directory} answers at http://127.0.0.1:{bound}/api",
    )
