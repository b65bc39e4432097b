"""``flip-fl privacy …``: what a site's projects have spent of their privacy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.commands.answers import PrivacyStatus

_STATUS = (
    "flip-fl privacy status",
    "flip-fl privacy status --state runs/short/state/Trust_1 --json",
)
_ID_CHARS = 24


def build() -> typer.Typer:
    """The group ``privacy``."""
    group = typer.Typer(
        cls=guided_group(*_STATUS),
        help="What a site's projects have spent of their privacy.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    group.command("status", cls=guided(*_STATUS, exits=(ExitCode.FAILED,)))(status)
    return group


def status(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The site's state folder with the account (FLIP_STATE_DIR).")
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The site's settings file, with policy.toml beside it (./local/flip.env)."),
    ] = None,
) -> Any:
    """Show what each project has spent at this site, over all its rounds and jobs, and what is left of the budget."""
    from flip_fl.commands.answers import PrivacySpent, PrivacyStatus
    from flip_fl.commands.checks import state_folder
    from flip_fl.commands.origins import Origins, find_file
    from flip_fl.privacy.account import Account
    from flip_fl.privacy.policy import SitePolicy
    from flip_fl.privacy.site_policy import site_policy

    output = Output.of(context)
    file = find_file(settings)
    if file is not None and not file.is_file():
        raise FlipError("E0404", name="--settings", value=file, expected="a readable file", place="the command line")
    policy = site_policy(file) or SitePolicy()
    folder = state or state_folder(Origins(file))
    account = Account(folder) if folder is not None else None
    budget = policy.budget.epsilon if policy.budget is not None else None
    rows = [
        PrivacySpent(
            each.project,
            each.rounds,
            each.jobs,
            each.cohorts,
            each.epsilon,
            None if budget is None else max(0.0, budget - each.epsilon),
            each.first,
            each.last,
        )
        for each in (account.projects(policy.delta) if account is not None else [])
    ]
    answer = PrivacyStatus(account.path if account is not None else None, policy.delta, budget, rows)
    output.answer(answer, _text(answer))
    return int(ExitCode.DONE)


def _text(answer: PrivacyStatus) -> str:
    if not answer.projects:
        where = f"in {answer.account}" if answer.account is not None else "FLIP_STATE_DIR is not set"
        return f"nothing is spent ({where})"
    header = ("project", "rounds", "jobs", "cohorts", "spent epsilon", "budget", "last")
    budget = "none" if answer.budget is None else f"{answer.budget:g}"
    rows = [
        (
            _short(row.project),
            str(row.rounds),
            str(row.jobs),
            str(row.cohorts),
            f"{row.epsilon:.4g}",
            budget,
            row.last,
        )
        for row in answer.projects
    ]
    return f"{table(header, rows, right=frozenset({1, 2, 3, 4, 5}))}\nepsilon at delta {answer.delta:g}"


def _short(project: str) -> str:
    if not project:
        return "(none)"
    return project if len(project) <= _ID_CHARS else f"{project[: _ID_CHARS - 1]}…"
