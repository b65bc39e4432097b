"""``flip-fl hub backup|restore|copy|prune``: what is kept of a hub, where, and for how long."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from flip_fl.commands.common import guided
from flip_fl.commands.hub_home import DATABASE, HERE, SETTINGS, DirOption, hub_settings
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError

COPY_TO = "FLIP_HUB_COPY_TO"


def register(group: typer.Typer) -> None:
    """Add the four commands to the group ``hub``."""
    exits = (ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.REFUSED)
    commands = (
        (backup, "hub-backup.sqlite", "second-backup.sqlite --dir hub --json"),
        (restore, "hub-backup.sqlite --dir restored-hub", "second-backup.sqlite --dir restored-too --json"),
        (copy, "--to copied-hub", "--dir hub --to copied-too --json"),
        (prune, "--older-than 365 --dry-run", "--older-than 365 --yes --json"),
    )
    for command, *words in commands:
        examples = [f"flip-fl hub {command.__name__} {each}" for each in words]
        group.command(command.__name__, cls=guided(*examples, exits=exits))(command)


def backup(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file; none is written over.")],
    directory: DirOption = HERE,
) -> Any:
    """Write all that the hub keeps into one file, while it serves; the file is checked before it gets its name.

    It is an SQLite database whatever the hub's own is. Settings and keys that lie in hub.env are not in it.
    """
    from flip_fl.hub import transfer

    output = Output.of(context)
    rows = transfer.back_up(hub_settings(directory).database_url, file)
    _kept(output, file, rows)
    output.next_step(f"flip-fl hub restore {file} --dir restored-hub")
    return 0


def restore(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What flip-fl hub backup wrote.")],
    directory: DirOption = HERE,
) -> Any:
    """Fill an empty hub with a backup, of an older version too.

    The database is that of the folder's hub.env; without one it is FLIP_HUB_DATABASE_URL, or hub.sqlite in the folder.
    """
    from flip_fl.hub import transfer
    from flip_fl.settings import HubSettings, load, write_settings_file

    output = Output.of(context)
    settings = directory / SETTINGS
    there = settings.is_file()
    url = load(HubSettings, settings).database_url if there else _new_database("FLIP_HUB_DATABASE_URL", directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = transfer.restore(file, url)
    if not there:
        write_settings_file(settings, {"FLIP_HUB_DATABASE_URL": url})
    _kept(output, directory, rows)
    output.next_step(
        f"flip-fl hub serve --dir {directory}" if there else f"flip-fl hub init --dir {directory} --new-key"
    )
    return 0


def copy(
    context: typer.Context,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="The copy's folder, which gets its own hub.env.")],
    directory: DirOption = HERE,
) -> Any:
    """Copy a hub into another database: from SQLite to PostgreSQL, or back. The copy takes the same service key.

    The new database is FLIP_HUB_COPY_TO (never an option: it may hold a password), or hub.sqlite in the new folder.
    Stop the hub first: what comes after the copy has begun is not in it.
    """
    from dotenv import dotenv_values

    from flip_fl.hub import transfer
    from flip_fl.settings import write_settings_file

    output = Output.of(context)
    settings = hub_settings(directory)
    if (to / SETTINGS).exists():
        raise FlipError("E1020", target=to, holds=f"{SETTINGS} is there")
    url = _new_database(COPY_TO, to)
    rows = transfer.copy_all(
        settings.database_url, url, lambda table, count: output.note(f"{table}: {count} rows") if count else None
    )
    source = directory / SETTINGS
    kept = {name: value or "" for name, value in dotenv_values(source).items()} if source.is_file() else {}
    kept.setdefault("INTERNAL_SERVICE_KEY_HASH", settings.service_key_hash)
    to.mkdir(parents=True, exist_ok=True)
    write_settings_file(to / SETTINGS, kept | {"FLIP_HUB_DATABASE_URL": url})
    _kept(output, to, rows)
    output.next_step(f"flip-fl hub serve --dir {to}")
    return 0


def prune(
    context: typer.Context,
    older_than: Annotated[int, typer.Option("--older-than", min=1, metavar="DAYS", help="Days since the run ended.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed; change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    directory: DirOption = HERE,
) -> Any:
    """Remove the points, logs and event ids of runs that ended long ago. It cannot be undone: make a backup first.

    The model, its status history, who took part, and every audit row stay.
    """
    from flip_fl.commands.answers import HubPruned, PrunedRow
    from flip_fl.commands.table import table
    from flip_fl.hub import admin, retention
    from flip_fl.hub.tables import utc_now

    output = Output.of(context)
    if dry_run == yes:
        fix = f"flip-fl hub prune --older-than {older_than} --dry-run"
        raise FlipError("E0102", problem="say either --dry-run or --yes", fix=fix)
    settings = hub_settings(directory)
    now = utc_now()
    with admin.open_session(settings.database_url) as session:
        runs = retention.expired(session, now - timedelta(days=older_than))
        for run in runs if yes else ():
            retention.forget(session, run, now)
    rows = [PrunedRow(run.model_id, run.name, run.ended_at, run.rows) for run in runs]
    body = [[row.name, f"{row.ended_at:%Y-%m-%d}", str(row.rows), str(row.id)] for row in rows]
    text = table(["model", "ended", "removed" if yes else "would be removed", "id"], body) if rows else "nothing is due"
    output.answer(HubPruned(older_than, dry_run, rows), text)
    return 0


def _new_database(variable: str, directory: Path) -> str:
    return os.environ.get(variable) or f"sqlite:///{directory.resolve() / DATABASE}"


def _kept(output: Output, place: Path, rows: dict[str, int]) -> None:
    from flip_fl.commands.answers import HubKept

    total = sum(rows.values())
    output.answer(
        HubKept(place, rows), f"{place}: {total} rows in {sum(map(bool, rows.values()))} tables, each counted"
    )
