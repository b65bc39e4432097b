"""``flip-fl provision``: make the kits of a federation, add some, or make all anew."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.commands.answers import Provisioned
    from flip_fl.provision.make import Made
    from flip_fl.provision.project import Federation

OUT = Path("kits")


class Engine(StrEnum):
    """For which engine."""

    NVFLARE = "nvflare"
    FLOWER = "flower"


def register(app: typer.Typer) -> None:
    app.command(
        "provision",
        cls=guided(
            "flip-fl provision -n 3 --host fl.example.org",
            "flip-fl provision --add 2",
            "flip-fl provision federation.yaml --out other-kits",
            exits=(ExitCode.FAILED, ExitCode.REFUSED),
        ),
    )(provision)


def provision(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(metavar="[FEDERATION.yaml]", help="The net, engine, server and slots.")
    ] = None,
    sites: Annotated[
        int | None, typer.Option("-n", "--sites", min=1, max=1000, metavar="N", help="Kits for Trust_1 to Trust_N.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="The name or IPv4 address sites connect to (localhost).")
    ] = None,
    engine: Annotated[Engine | None, typer.Option(help="The FL engine (nvflare).")] = None,
    net: Annotated[str | None, typer.Option(metavar="NAME", help="The federation's name (default).")] = None,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the kits and the CA go.")] = OUT,
    add: Annotated[
        int | None,
        typer.Option(min=1, max=1000, metavar="N", help="N more slots under the same CA; other kits stay as they are."),
    ] = None,
    replace_all: Annotated[
        bool, typer.Option("--replace-all", help="A new CA and all kits anew; the old ones are moved aside.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask whether to replace all.")] = False,
) -> Any:
    """Make a kit for the server, the administrator and each site; kits that exist are never overwritten.

    Each holds only its own private key; DIR/ca holds the CA's: guard it, and give it to nobody. Kits for Flower have no
    administrator's among them: jobs are started at the server.
    """
    if add is not None:
        _alone("--add", file, sites, host, net, engine, replace_all, yes)
    elif file is not None and (sites, host, net, engine) != (None, None, None, None):
        raise _usage("FEDERATION.yaml says all that itself; -n, --host, --net and --engine go without it")
    elif file is None and sites is None and not replace_all:
        raise _usage("flip-fl provision needs FEDERATION.yaml or -n N")
    elif yes and not replace_all:
        raise _usage("--yes goes with --replace-all")

    from flip_fl.provision import authority, make

    output = Output.of(context)
    if add is not None:
        made = make.add(out, add)
    elif replace_all:
        federation = _anew(file, sites, host, net, engine, out)
        if authority.exists(out):
            _confirm(federation.net, out, yes)
            made = make.replace_all(federation, out)
        else:
            made = make.provision(federation, out)
    else:
        made = make.provision(_wanted(file, sites, host, net, engine), out)
    told = _answer(made)
    output.answer(told, _text(told))
    _notes(output, told, first=add is None)
    return int(ExitCode.DONE)


def _alone(option: str, *others: object) -> None:
    if any(other not in (None, False) for other in others):
        raise _usage(f"{option} takes everything else from the kits that exist; it goes with --out alone")


def _usage(problem: str) -> FlipError:
    return FlipError("E0102", problem=problem, usage="flip-fl provision -n 3")


def _wanted(
    file: Path | None, sites: int | None, host: str | None, net: str | None, engine: Engine | None
) -> Federation:
    from flip_fl.provision.project import DEFAULT_HOST, DEFAULT_NET, load_federation, make_federation

    if file is not None:
        return load_federation(file)
    return make_federation(
        net=net or DEFAULT_NET,
        host=host or DEFAULT_HOST,
        slots=sites or 1,
        engine=engine.value if engine else "nvflare",
    )


def _anew(
    file: Path | None, sites: int | None, host: str | None, net: str | None, engine: Engine | None, out: Path
) -> Federation:
    """What shall stand instead of the kits in ``out``: what is said now, else what they were made of."""
    from flip_fl.provision import authority, make
    from flip_fl.provision.project import make_federation

    if file is not None:
        return _wanted(file, None, None, None, None)
    if not authority.exists(out):
        if sites is None:
            fix = f"flip-fl provision -n 3 --out {shlex.quote(str(out))}"
            raise FlipError("E0606", folder=make.shown(out), act="replace", fix=fix)
        return _wanted(None, sites, host, net, engine)
    old = authority.read_ledger(out).federation
    server = old.server
    if host is not None and host != server.host:
        server = make_federation(net=old.net, host=host, port=server.port, slots=1).server
    checked = make_federation(
        net=net or old.net,
        host=server.host,
        port=server.port,
        slots=sites or old.slots,
        engine=engine.value if engine else old.engine,
    )
    return checked.model_copy(update={"server": server})


def _confirm(net: str, out: Path, yes: bool) -> None:
    """Ask a person to type the net's name; without one at a terminal, --yes must have been said."""
    if yes:
        return
    fix = f"flip-fl provision --replace-all --yes --out {shlex.quote(str(out))}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise FlipError(
            "E0102", problem="--replace-all cuts off every site: without a terminal it needs --yes", fix=fix
        )
    typed = typer.prompt(
        f"every site of '{net}' is cut off until it has its new kit; type the net's name to go on",
        default="",
        show_default=False,
        err=True,
    )
    if typed.strip() != net:
        raise FlipError("E0102", problem=f"'{typed}' is not the net's name: nothing was replaced", fix=fix)


def _answer(made: Made) -> Provisioned:
    from flip_fl.commands.answers import KitRow, Provisioned

    federation = made.federation
    return Provisioned(
        net=federation.net,
        engine=federation.engine,
        host=federation.server.host,
        port=federation.server.port,
        slots=federation.slots,
        folder=made.folder,
        kits=[KitRow(kit.name, kit.role.value, made.folder / kit.name, kit.sha256, kit.valid_to) for kit in made.kits],
        replaced=made.replaced,
    )


def _text(told: Provisioned) -> str:
    body = [[row.name, str(row.path), f"{row.valid_to:%Y-%m-%d}"] for row in told.kits]
    head = f"net {told.net}: server {told.host}:{told.port}, {told.slots} slots, {told.engine}"
    return f"{head}\n{table(['kit', 'folder', 'valid to'], body)}"


def _notes(output: Output, told: Provisioned, *, first: bool) -> None:
    if told.replaced is not None:
        output.note(f"the old CA and kits are in {told.replaced}; no site connects until it has its new kit")
    if first:
        output.note(f"{told.folder / 'ca'} holds the CA's key: back it up, and give it to nobody")
        if told.host == "localhost":
            output.note("these kits connect on this machine alone; for others, say the server's name with --host")
    output.next_step(f"flip-fl kit verify {shlex.quote(str(told.kits[-1].path))}")
