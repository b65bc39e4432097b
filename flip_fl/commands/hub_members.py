"""``flip-fl hub project|trust|slot``: who takes part in what."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands import hub_access, hub_models
from flip_fl.commands.asking import YesOption, confirm
from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.hub_home import HERE, DirOption, acting
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.commands.answers import ProjectRow, SlotRow, TrustRow
    from flip_fl.hub import admin


def build() -> list[tuple[str, typer.Typer]]:
    """The groups by name, those of ``hub_models`` and ``hub_access`` too."""
    groups = []
    for name, (help_text, commands) in {**_GROUPS, **hub_models.GROUPS, **hub_access.GROUPS}.items():
        group = typer.Typer(
            cls=guided_group(*_first_examples([examples for _, examples in commands.values()])),
            help=help_text,
            rich_markup_mode=None,
            suggest_commands=False,
        )
        for command, (function, examples) in commands.items():
            exits = (ExitCode.UNREACHABLE, ExitCode.REFUSED)
            group.command(command, cls=guided(*examples, exits=exits))(function)
        groups.append((name, group))
    return groups


def _first_examples(examples: list[tuple[str, ...]]) -> tuple[str, ...]:
    """What a group shows: the first of up to three of its commands, or all of its only one."""
    return tuple(own[0] for own in examples[:3]) if len(examples) > 1 else examples[0]


def add_project(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="At most 255 characters.")],
    directory: DirOption = HERE,
) -> Any:
    """Add a project; one that is there already is left as it is."""
    from flip_fl.commands.answers import ProjectRow, Projects
    from flip_fl.hub import admin

    output = Output.of(context)
    with acting(directory) as session:
        there = any(known.name == name for known in admin.list_projects(session))
        project = admin.create_project(session, name)
    if there:
        output.note("already there")
    rows = [ProjectRow(project.id, project.name)]
    output.answer(Projects(rows), _projects_text(rows))
    return 0


def list_projects(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the projects."""
    from flip_fl.commands.answers import ProjectRow, Projects
    from flip_fl.hub import admin

    with acting(directory) as session:
        rows = [ProjectRow(project.id, project.name) for project in admin.list_projects(session)]
    Output.of(context).answer(Projects(rows), _projects_text(rows))
    return 0


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
    with acting(directory) as session:
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

    with acting(directory) as session:
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

    with acting(directory) as session:
        slots = admin.seed_slots(session, count)
    return _answer_slots(context, slots)


def assign_slot(
    context: typer.Context,
    trust: Annotated[str, typer.Argument(help="The trust's name or id.")],
    directory: DirOption = HERE,
) -> Any:
    """Give a trust the lowest-numbered free slot; a trust that holds one keeps it."""
    from flip_fl.hub import admin

    with acting(directory) as session:
        held = admin.assign_slot(session, trust)
        slots = [slot for slot in admin.list_slots(session) if slot.name == held]
    return _answer_slots(context, slots)


def release_slot(
    context: typer.Context,
    slot: Annotated[str, typer.Argument(help="The slot's name.")],
    keep_name: Annotated[
        bool,
        typer.Option("--keep-name", help="Its key is revoked by the engine itself (Flower): the name may be reused."),
    ] = False,
    yes: YesOption = False,
    directory: DirOption = HERE,
) -> Any:
    """Free a slot and revoke its kit; a name whose kit was issued is retired, and a fresh slot takes its place."""
    from flip_fl.hub import admin

    with acting(directory) as session:
        if not any(known.name == slot for known in admin.list_slots(session)):
            raise FlipError("E1002", kind="kit slot", name=slot, known="", suggestion="flip-fl hub slot list")
        command = f"flip-fl hub slot release {shlex.quote(slot)}"
        confirm(slot, "who holds the slot will be cut off", command, yes)
        fresh = admin.release_slot(session, slot, retire=not keep_name)
        slots = [known for known in admin.list_slots(session) if known.name in (slot, fresh)]
    return _answer_slots(context, slots)


def list_slots(context: typer.Context, directory: DirOption = HERE) -> Any:
    """List the slots and who holds them."""
    from flip_fl.hub import admin

    with acting(directory) as session:
        slots = admin.list_slots(session)
    return _answer_slots(context, slots)


def _answer_slots(context: typer.Context, slots: list[admin.SlotInfo]) -> int:
    from flip_fl.commands.answers import SlotRow, Slots

    rows = [SlotRow(slot.name, slot.number, slot.trust, slot.assigned_at, slot.retired) for slot in slots]
    Output.of(context).answer(Slots(rows), _slots_text(rows))
    return 0


def _trust_row(trust: admin.TrustInfo) -> TrustRow:
    from flip_fl.commands.answers import TrustRow

    return TrustRow(trust.id, trust.name, trust.code, trust.slot)


def _projects_text(rows: list[ProjectRow]) -> str:
    return table(["project", "id"], [[r.name, str(r.id)] for r in rows]) if rows else "no projects yet"


def _trusts_text(rows: list[TrustRow]) -> str:
    if not rows:
        return "no trusts yet"
    return table(["trust", "code", "slot", "id"], [[r.name, r.code or "-", r.slot or "-", str(r.id)] for r in rows])


def _slots_text(rows: list[SlotRow]) -> str:
    if not rows:
        return "no slots yet"
    return table(["slot", "trust"], [[r.slot, r.trust or ("retired" if r.retired else "free")] for r in rows])


_GROUPS: dict[str, tuple[str, hub_access.Commands]] = {
    "project": (
        "Research projects, which models belong to and tokens reach.",
        {
            "add": (add_project, ("flip-fl hub project add Default", "flip-fl hub project add Pathology --json")),
            "list": (list_projects, ("flip-fl hub project list", "flip-fl hub project list --json")),
        },
    ),
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
            "release": (
                release_slot,
                (
                    "flip-fl hub slot release Trust_1 --yes",
                    "flip-fl hub slot release Trust_1 --keep-name --yes --json",
                ),
            ),
            "list": (list_slots, ("flip-fl hub slot list", "flip-fl hub slot list --json")),
        },
    ),
}
