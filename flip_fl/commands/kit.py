"""``flip-fl kit …``: look at a kit before and after it is installed, renew one, and keep one out."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.commands.answers import Check
    from flip_fl.provision.files import Finding
    from flip_fl.provision.revoke import Revocation

_VERIFY = ("flip-fl kit verify kits/Trust_1", "flip-fl kit verify kits/server --host localhost --json")
_RENEW = ("flip-fl kit renew kits/Trust_1", "flip-fl kit renew kits/server --kits kits --json")
_REVOKE = ("flip-fl kit revoke Trust_2 --dry-run", "flip-fl kit revoke Trust_2 --kits kits --dry-run --json")


def build() -> typer.Typer:
    """The group ``kit``."""
    group = typer.Typer(
        cls=guided_group(_VERIFY[0], _RENEW[0], _REVOKE[0]),
        help="Look at a kit before and after it is installed, renew one, and keep one out.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    group.command("verify", cls=guided(*_VERIFY, exits=(ExitCode.FAILED, ExitCode.UNREACHABLE)))(verify)
    group.command("renew", cls=guided(*_RENEW, exits=(ExitCode.FAILED, ExitCode.REFUSED)))(renew)
    group.command("revoke", cls=guided(*_REVOKE, exits=(ExitCode.UNREACHABLE,)))(revoke)
    return group


def verify(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="KIT", help="The kit's folder.")],
    host: Annotated[
        str | None, typer.Option(metavar="HOST", help="The host you connect to (the one in the kit).")
    ] = None,
    clock: Annotated[
        str | None, typer.Option(metavar="URL", help="Compare this clock with the Date of this web server.")
    ] = None,
    connect: Annotated[
        bool, typer.Option("--connect", help="Try the server, as the kit's holder, and the trust's services.")
    ] = False,
) -> Any:
    """Check a kit: its key, certificate, names, dates, file modes and versions, and that no foreign key is in it.

    Ends with 1 when the kit fails; with 3 when only the host's name, a date, the clock or the server keeps it from
    connecting. Without --clock and --connect nothing is asked over the network.
    """
    from flip_fl.commands.answers import KitVerified
    from flip_fl.commands.check_lines import check_lines
    from flip_fl.provision.clock import compare
    from flip_fl.provision.kit import read_kit
    from flip_fl.provision.reach import reach
    from flip_fl.provision.trust_reach import reach_services
    from flip_fl.provision.verify import verdict
    from flip_fl.provision.verify import verify as look

    output = Output.of(context)
    kit = read_kit(folder)
    findings = look(kit, host=host, clock=compare(clock) if clock is not None else None)
    if connect:
        findings += [reach(kit, host), *reach_services(kit)]
    answer = KitVerified(folder, kit.name, kit.role.value, kit.net, host or kit.host, [_check(f) for f in findings])
    error = verdict(kit, findings)
    if error is None:
        output.answer(answer, check_lines(answer.checks))
        return int(ExitCode.DONE)
    if not output.common.json:
        output.answer(answer, check_lines(answer.checks))
    output.error(error, answer)
    return int(error.exit_code)


def renew(
    context: typer.Context,
    which: Annotated[Path, typer.Argument(metavar="KIT", help="The kit's folder, or a copy of its certificate.")],
    kits: Annotated[Path, typer.Option(metavar="DIR", help="Where the kits were made, with ca/ in it.")] = Path("kits"),
) -> Any:
    """Issue a kit's certificate anew, before or after it ends: same name, same key, valid for 360 days from now.

    Only a public file changes: whoever holds the kit elsewhere puts it in the place of the old one and starts again.
    """
    from flip_fl.commands.answers import KitRenewed
    from flip_fl.provision.renew import renew as issue_anew

    output = Output.of(context)
    done = issue_anew(kits, which)
    answer = KitRenewed(done.name, done.valid_to, done.certificate, done.written, done.to_copy)
    output.answer(answer, f"{done.name} is valid to {done.valid_to:%Y-%m-%d}: {done.certificate}")
    output.note(f"where {done.name} runs, it takes the place of startup/{_file_of(done.name)}; then start it again")
    if done.to_copy:
        output.note(f"the server's kit is not in {kits}: copy it there, too, as {done.to_copy}")
    return int(ExitCode.DONE)


def _file_of(name: str) -> str:
    from flip_fl.provision.kit import SERVER, KitRole

    return f"{(KitRole.SERVER if name == SERVER else KitRole.SITE).stem}.crt"


def revoke(
    context: typer.Context,
    slot: Annotated[str, typer.Argument(metavar="SLOT", help="The kit slot, as Trust_2.")],
    kits: Annotated[Path, typer.Option(metavar="DIR", help="Where the kits were made, with ca/ in it.")] = Path("kits"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> Any:
    """Keep the holder of a slot's kit out of the federation, for good: its trust gets a new slot with a new kit.

    NVFLARE's running server is told with the administrator's kit. For Flower the slot's certificate is removed from the
    server's kit, which a running server notices within seconds. What the site holds is not touched.
    """
    from flip_fl.commands.answers import KitRevoked
    from flip_fl.provision.revoke import revoke as keep_out

    output = Output.of(context)
    if not (dry_run or yes):
        _confirm(slot, kits)
    done = keep_out(kits, slot, dry_run=dry_run)
    output.answer(KitRevoked(done.slot, done.since, done.already, done.to_remove), _told(done))
    if done.to_remove:
        output.note(f"the server's kit is not in {kits}: remove {done.to_remove} from it, or {slot} still gets in")
    if done.since is not None:
        output.next_step(f"flip-fl hub slot release {slot}")
    return int(ExitCode.DONE)


def _confirm(slot: str, kits: Path) -> None:
    fix = f"flip-fl kit revoke {slot} --yes --kits {shlex.quote(str(kits))}"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise FlipError("E0102", problem="a site is cut off for good: without a terminal it needs --yes", fix=fix)
    question = f"{slot} is cut off for good; type its name to go on"
    typed = typer.prompt(question, default="", show_default=False, err=True)
    if typed.strip() != slot:
        raise FlipError("E0102", problem=f"'{typed}' is not the slot's name: nothing was revoked", fix=fix)


def _told(done: Revocation) -> str:
    if done.since is None:
        return f"{done.slot} would be kept out"
    return f"{done.slot} is kept out since {done.since:%Y-%m-%d %H:%M} UTC"


def _check(finding: Finding) -> Check:
    from flip_fl.commands.answers import Check

    return Check(finding.name, finding.state, finding.what, finding.why or None, finding.fix or None)
