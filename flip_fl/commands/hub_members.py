"""``flip-fl hub trust|slot|model``: who takes part in what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from uuid import NAMESPACE_URL, uuid4, uuid5

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.hub_home import HERE, DirOption, hub_settings
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import ExitCode

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from sqlmodel import Session

    from flip_fl.commands.answers import ModelRow, SlotRow, TrustRow
    from flip_fl.hub import admin


def build() -> list[tuple[str, typer.Typer]]:
    """The groups ``trust``, ``slot`` and ``model``, by name."""
    groups = []
    for name, (help_text, commands) in _GROUPS.items():
        group = typer.Typer(
            cls=guided_group(*(examples[0] for _, examples in commands.values())),
            help=help_text,
            rich_markup_mode=None,
            suggest_commands=False,
        )
        for command, (function, examples) in commands.items():
            exits = (ExitCode.UNREACHABLE, ExitCode.REFUSED)
            group.command(command, cls=guided(*examples, exits=exits))(function)
        groups.append((name, group))
    return groups


def add_trust(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="As people know the hospital.")],
    code: Annotated[str | None, typer.Option(help="A short code for the curves' labels.")] = None,
    directory: DirOption = HERE,
) -> Any:
    """Add a trust; one that is there already is left as it is."""
    from flip_fl.commands.answers import Trusts
    from flip_fl.hub import admin

    output = Output.of(context)
    with _session(directory) as session:
        there = any(known.name == name for known in admin.list_trusts(session))
        trust = admin.create_trust(session, name, code)
    if there:
        output.note("already there")
    output.answer(Trusts([_trust_row(trust)]), _trusts_text([_trust_row(trust)]))
    if trust.slot is None:
        output.next_step(f"flip-fl hub slot assign {name!r}")
    return 0


def list_trusts(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the trusts and the slots they hold."""
    from flip_fl.commands.answers import Trusts
    from flip_fl.hub import admin

    with _session(directory) as session:
        rows = [_trust_row(trust) for trust in admin.list_trusts(session)]
    Output.of(context).answer(Trusts(rows), _trusts_text(rows))
    return 0


def seed_slots(
    context: typer.Context,
    count: Annotated[int, typer.Argument(min=1, max=1000, metavar="N", help="How many there shall be.")],
    directory: DirOption = HERE,
) -> Any:
    """Make sure that the slots Trust_1 to Trust_N exist. Slots are only ever added."""
    from flip_fl.hub import admin

    with _session(directory) as session:
        slots = admin.seed_slots(session, count)
    return _answer_slots(context, slots)


def assign_slot(
    context: typer.Context,
    trust: Annotated[str, typer.Argument(help="The trust's name or id.")],
    directory: DirOption = HERE,
) -> Any:
    """Give a trust the lowest-numbered free slot; a trust that holds one keeps it."""
    from flip_fl.hub import admin

    with _session(directory) as session:
        held = admin.assign_slot(session, trust)
        slots = [slot for slot in admin.list_slots(session) if slot.name == held]
    return _answer_slots(context, slots)


def list_slots(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the slots and who holds them."""
    from flip_fl.hub import admin

    with _session(directory) as session:
        slots = admin.list_slots(session)
    return _answer_slots(context, slots)


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
    with _session(directory) as session:
        trusts = trust or [known.name for known in admin.list_trusts(session)]
        admin.create_project(session, project)
        there = any(known.id == model_id for known in admin.list_models(session, project))
        model = admin.create_model(session, project, name, description, model_id=model_id, trusts=trusts)
    if there:
        output.note("already there")
    output.answer(Models([_model_row(model)]), _models_text([_model_row(model)]))
    return 0


def list_models(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the models, newest first, and say which runs are not heard of."""
    from flip_fl.commands.answers import Models
    from flip_fl.hub import admin
    from flip_fl.hub.silence import SilenceRule, silent_runs
    from flip_fl.hub.tables import utc_now

    settings = hub_settings(directory)
    with admin.open_session(settings.database_url) as session:
        models = admin.list_models(session)
        silent = silent_runs(session, SilenceRule.of(settings).unreachable_after, utc_now())
    since = {run.model_id: run.since for run in silent}
    rows = [_model_row(model, since.get(model.id)) for model in models]
    Output.of(context).answer(Models(rows), _models_text(rows))
    return 0


@contextmanager
def _session(directory: Path) -> Iterator[Session]:
    from flip_fl.hub import admin

    with admin.open_session(hub_settings(directory).database_url) as session:
        yield session


def _answer_slots(context: typer.Context, slots: list[admin.SlotInfo]) -> int:
    from flip_fl.commands.answers import SlotRow, Slots

    rows = [SlotRow(slot.name, slot.number, slot.trust, slot.assigned_at, slot.retired) for slot in slots]
    Output.of(context).answer(Slots(rows), _slots_text(rows))
    return 0


def _trust_row(trust: admin.TrustInfo) -> TrustRow:
    from flip_fl.commands.answers import TrustRow

    return TrustRow(trust.id, trust.name, trust.code, trust.slot)


def _model_row(model: admin.ModelInfo, unreachable_since: datetime | None = None) -> ModelRow:
    from flip_fl.commands.answers import ModelRow

    return ModelRow(
        model.id, model.name, model.project, model.status.value, list(model.trusts), unreachable_since=unreachable_since
    )


def _trusts_text(rows: list[TrustRow]) -> str:
    if not rows:
        return "no trusts yet"
    return table(["trust", "code", "slot", "id"], [[r.name, r.code or "-", r.slot or "-", str(r.id)] for r in rows])


def _slots_text(rows: list[SlotRow]) -> str:
    if not rows:
        return "no slots yet"
    return table(["slot", "trust"], [[r.slot, r.trust or ("retired" if r.retired else "free")] for r in rows])


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


_Commands = dict[str, tuple[Callable[..., Any], tuple[str, ...]]]
_GROUPS: dict[str, tuple[str, _Commands]] = {
    "trust": (
        "The trusts (hospitals) that the hub knows.",
        {
            "add": (
                add_trust,
                ("flip-fl hub trust add 'Guys and St Thomas' --code GSTT", "flip-fl hub trust add Kings --json"),
            ),
            "list": (list_trusts, ("flip-fl hub trust list", "flip-fl hub trust list --json")),
        },
    ),
    "slot": (
        "Kit slots: the names of participants.",
        {
            "seed": (seed_slots, ("flip-fl hub slot seed 3", "flip-fl hub slot seed 3 --json")),
            "assign": (
                assign_slot,
                ("flip-fl hub slot assign 'Guys and St Thomas'", "flip-fl hub slot assign Kings --json"),
            ),
            "list": (list_slots, ("flip-fl hub slot list", "flip-fl hub slot list --json")),
        },
    ),
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
            "list": (list_models, ("flip-fl hub model list", "flip-fl hub model list --json")),
        },
    ),
}
