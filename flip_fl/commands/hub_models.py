"""``flip-fl hub model``: the models that runs report on."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import typer

from flip_fl.commands.asking import YesOption, confirm
from flip_fl.commands.hub_access import Commands
from flip_fl.commands.hub_home import HERE, DirOption, acting, hub_settings
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import FlipError

if TYPE_CHECKING:
    from datetime import datetime

    from flip_fl.commands.answers import ModelRow
    from flip_fl.hub import admin


def add_model(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="At most 75 characters.")],
    project: Annotated[str, typer.Option(help="Its project; made if it is new.")] = "Default",
    trust: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A trust that takes part; may be repeated (all).")
    ] = None,
    description: Annotated[str, typer.Option(help="At most 250 characters.")] = "",
    new: Annotated[bool, typer.Option("--new", help="Another one of the same name.")] = False,
    directory: DirOption = HERE,
) -> Any:
    """Add a model for runs to report on; the same name in the same project is the same model."""
    from flip_fl.commands.answers import Models
    from flip_fl.hub import admin

    output = Output.of(context)
    model_id = uuid4() if new else uuid5(NAMESPACE_URL, f"flip-fl:model:{project}:{name}")
    with acting(directory) as session:
        trusts = trust or [known.name for known in admin.list_trusts(session)]
        admin.create_project(session, project)
        there = any(known.id == model_id for known in admin.list_models(session, project))
        model = admin.create_model(session, project, name, description, model_id=model_id, trusts=trusts)
    if there:
        output.note("already there")
    output.answer(Models([_model_row(model)]), _models_text([_model_row(model)]))
    return 0


def delete_model(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="The model's id, or a name that only it has.")],
    yes: YesOption = False,
    directory: DirOption = HERE,
) -> Any:
    """Delete a model: it is shown no more and takes no reports. What was reported stays in the database."""
    from flip_fl.commands.answers import Models
    from flip_fl.hub import admin

    with acting(directory) as session:
        alike = [known for known in admin.list_models(session) if known.name == model]
        if len(alike) > 1:
            ids = ", ".join(str(known.id) for known in alike)
            problem = f"{len(alike)} models are called {model!r}: {ids}"
            raise FlipError("E0102", problem=problem, usage=f"flip-fl hub model delete {alike[0].id}")
        found = alike[0] if alike else admin.find_model(session, model)
        command = f"flip-fl hub model delete {shlex.quote(model)}"
        confirm(model, f"model {found.name!r} of {found.project!r} will be deleted", command, yes)
        rows = [_model_row(admin.delete_model(session, found.id))]
    Output.of(context).answer(Models(rows), _models_text(rows))
    return 0


def list_models(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the models, newest first, and say which runs are not heard of."""
    from flip_fl.commands.answers import Models
    from flip_fl.hub import admin
    from flip_fl.hub.silence import SilenceRule, silent_runs
    from flip_fl.hub.tables import utc_now

    settings = hub_settings(directory)
    with acting(directory) as session:
        models = admin.list_models(session)
        silent = silent_runs(session, SilenceRule.of(settings).unreachable_after, utc_now())
    since = {run.model_id: run.since for run in silent}
    rows = [_model_row(model, since.get(model.id)) for model in models]
    Output.of(context).answer(Models(rows), _models_text(rows))
    return 0


def _model_row(model: admin.ModelInfo, unreachable_since: datetime | None = None) -> ModelRow:
    from flip_fl.commands.answers import ModelRow

    return ModelRow(
        model.id, model.name, model.project, model.status.value, list(model.trusts), unreachable_since=unreachable_since
    )


def _models_text(rows: list[ModelRow]) -> str:
    if not rows:
        return "no models yet"
    body = [[r.name, r.project, _state(r), ", ".join(r.trusts) or "-", str(r.id)] for r in rows]
    return table(["model", "project", "status", "trusts", "id"], body)


def _state(row: ModelRow) -> str:
    from datetime import UTC, datetime

    from flip_fl.dashboard.words import clock, status_word
    from flip_fl.values import ModelStatus

    word = status_word(ModelStatus(row.status))
    if row.unreachable_since is None:
        return word
    return f"{word} (no news since {clock(row.unreachable_since, datetime.now(UTC))})"


GROUPS: dict[str, tuple[str, Commands]] = {
    "model": (
        "Models, which runs report on.",
        {
            "add": (
                add_model,
                (
                    "flip-fl hub model add 'Breast cancer' --project Pathology",
                    "flip-fl hub model add 'Breast cancer' --trust Kings --new --json",
                ),
            ),
            "delete": (
                delete_model,
                (
                    "flip-fl hub model delete 7f3a2b10-5c4d-4e6f-8a9b-0c1d2e3f4a5b --yes",
                    "flip-fl hub model delete 'Breast cancer' --yes --json",
                ),
            ),
            "list": (list_models, ("flip-fl hub model list", "flip-fl hub model list --json")),
        },
    ),
}
