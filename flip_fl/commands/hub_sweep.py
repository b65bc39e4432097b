"""``flip-fl hub sweep``: which runs fell silent, and the end of those that were silent for too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.hub_home import HERE, DirOption, hub_settings
from flip_fl.commands.output import Output
from flip_fl.commands.table import table

if TYPE_CHECKING:
    from datetime import datetime

    from flip_fl.commands.answers import HubSwept

EXAMPLES = ("flip-fl hub sweep --error-after 3600 --dry-run", "flip-fl hub sweep --error-after 3600 --json")


def sweep(
    context: typer.Context,
    error_after: Annotated[
        float | None,
        typer.Option(
            "--error-after",
            min=60,
            metavar="S",
            help="End runs that are silent for longer as failed (FLIP_HUB_STALE_ERROR_AFTER_S, off).",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be ended; change nothing.")] = False,
    directory: DirOption = HERE,
) -> Any:
    """List the runs whose FL server is not heard of; with --error-after, end those that were silent for longer.

    A run that is ended is ERROR, with the reason, and its net is free. Time in which the hub itself was away does not
    count. What such a run reports later is kept, and its own last status still counts.
    """
    from flip_fl.commands.answers import HubSwept, SilentRow
    from flip_fl.errors import FlipError
    from flip_fl.hub import admin, presence
    from flip_fl.hub.silence import SilenceRule, silent_runs
    from flip_fl.hub.sweep import sweep as end_silent
    from flip_fl.hub.tables import utc_now

    output = Output.of(context)
    settings = hub_settings(directory)
    if error_after is not None:
        settings = settings.model_copy(update={"stale_error_after_s": error_after})
    rule = SilenceRule.of(settings)
    now = utc_now()
    with admin.open_session(settings.database_url) as session:
        if presence.up_since(session, now) is None:
            raise FlipError("E1007", seconds=f"{presence.AWAY_AFTER.total_seconds():.0f}", dir=directory)
        silent = silent_runs(session, rule.unreachable_after, now)
        ended = [] if rule.error_after is None else end_silent(session, rule.error_after, now, dry_run=dry_run)
    due = {run.model_id for run in ended}
    rows = [SilentRow(run.model_id, run.name, run.status.value, run.since, run.model_id in due) for run in silent]
    answer = HubSwept(None if rule.error_after is None else rule.error_after.total_seconds(), dry_run, rows)
    output.answer(answer, _text(answer, now))
    if rule.error_after is None and rows:
        output.note("nothing was ended: no rule is set (--error-after S, or FLIP_HUB_STALE_ERROR_AFTER_S)")
    return 0


def _text(answer: HubSwept, now: datetime) -> str:
    from flip_fl.dashboard.words import clock, span, status_word
    from flip_fl.values import ModelStatus

    if not answer.silent:
        return "every run under way reports"
    body = []
    for row in answer.silent:
        act = "-" if not row.due else "would end as failed" if answer.dry_run else "ended as failed"
        since = f"{clock(row.since, now)} ({span(now - row.since)})"
        body.append([row.name, status_word(ModelStatus(row.status)), since, act, str(row.id)])
    return table(["model", "status", "no news since", "sweep", "id"], body)
