"""``flip-fl run``: a federated run of one app on this machine."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.app.packages import app_folder
from flip_fl.commands.common import guided
from flip_fl.commands.output import Output, color_wanted
from flip_fl.commands.suggest import did_you_mean
from flip_fl.errors import ExitCode, FlipError
from flip_fl.simulate.model import DATABASES, ENGINES, RunOptions, check_names
from flip_fl.values import natural_key

if TYPE_CHECKING:
    from flip_fl.simulate.faults import HubFault
    from flip_fl.simulate.model import RunOutcome

_CODE_FILES = ("trainer.py", "evaluator.py", "client_app.py")
MAX_SITES = 100
# Each is a whole run.
MAX_CURVE = 50


def register(app: typer.Typer) -> None:
    app.command(
        "run",
        cls=guided(
            "flip-fl run examples/breast_cancer --engine nvflare --sites 2",
            "flip-fl run examples/breast_cancer --engine flower --rounds 2 --out runs/short --baselines",
            "flip-fl run examples/breast_cancer --sites 3 --site Trust_1 --site Trust_3 --rounds 1 --json",
            exits=(ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.REFUSED, ExitCode.STOPPED),
        ),
    )(run)


def run(
    context: typer.Context,
    app_dir: Annotated[Path, typer.Argument(metavar="APP_DIR", help="The app's folder: config.json, models.py, …")],
    engine: Annotated[str, typer.Option(metavar="NAME", help=f"One of: {', '.join(ENGINES)}.")] = ENGINES[0],
    runtime: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How Flower runs: in-process (the default: a process a site, quick), ray (Flower's own simulation) or "
            "deployment (a SuperLink and SuperNodes with TLS and keys, as in production).",
        ),
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_SITES, metavar="N", help="How many kit slots there are: Trust_1 … Trust_N (2)."),
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(metavar="SLOT", help="A slot that takes part; may be repeated (all).")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=1000, metavar="N", help="Instead of the app's GLOBAL_ROUNDS.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="CSV", help="The cohort (else DEV_DATAFRAME, else the app's prepare.py).")
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="A folder a study (else DEV_IMAGES_DIR).")] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run's folder (runs/<app>-<time>).")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Also train each site alone and all data together, to compare.")
    ] = False,
    production: Annotated[
        bool,
        typer.Option(
            "--production",
            help="Let the sites ask a trust's services, with keys, as in production, instead of reading files.",
        ),
    ] = False,
    trust_database: Annotated[
        str,
        typer.Option(metavar="KIND", help=f"Of the trusts with --production: {' or '.join(DATABASES)}."),
    ] = DATABASES[0],
    shares: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="How the patients are divided, a number for each site (equally)."),
    ] = None,
    site_policy: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The policy of every site: filters, budget, rules for metrics (none)."),
    ] = None,
    privacy_curve: Annotated[
        str | None,
        typer.Option(
            metavar="E,E,…",
            help="After the run also run it again for each of these epsilons, with the sites' Gaussian filter, and put "
            "the scores against the spent epsilon in the report.",
        ),
    ] = None,
    clipping_norm: Annotated[
        float | None,
        typer.Option(
            metavar="NORM",
            help="Of --privacy-curve: the norm to which updates are clipped (their median without noise).",
        ),
    ] = None,
    fault: Annotated[
        str | None,
        typer.Option(
            metavar="FAULT",
            help="Rehearse a hub that is not well until the engine has ended: hub-slow=2s (each answer comes so much "
            "later), hub-hung (takes connections, never answers), hub-away (refuses connections), hub-black-hole "
            "(packets are lost), hub-500, hub-503, hub-429 or hub-429=30s (with a Retry-After), hub-401, hub-403, "
            "hub-cut (does what it is asked, never says so), hub-reset (cut in mid-request) or hub-garbage (a login "
            "page).",
        ),
    ] = None,
) -> Any:
    """Run an app federated on this machine: hub, object store, sites and engine are started and stopped for it.

    Ends with the measurements, the results' address and a report to open. Ctrl-C stops the run: the hub says Stopped.
    """
    output = Output.of(context)
    check_names(engine, runtime or "", did_you_mean)
    check_app_folder(app_dir)
    count, slots = chosen_slots(sites, site or [])
    check_data(data, images)
    hub_fault = read_fault(fault)
    check_trust_database(trust_database, production)
    options = RunOptions(
        app=app_dir,
        engine=engine,
        sites=count,
        slots=slots,
        rounds=rounds,
        data=data,
        images=images,
        out=out,
        baselines=baselines,
        runtime=runtime or "",
        hub_fault=hub_fault,
        production=production,
        trust_database=trust_database,
        shares=read_shares(shares, slots),
        site_policy=site_policy,
        privacy_curve=read_curve(privacy_curve, clipping_norm),
        clipping_norm=clipping_norm,
    )
    return finish(output, _watched(output, options))


def _watched(output: Output, options: RunOptions) -> RunOutcome:
    from flip_fl.commands.progress import display
    from flip_fl.simulate.run import run as simulate

    common = output.common
    with display(
        sys.stderr, quiet=common.quiet or common.json, color=color_wanted(common.color, sys.stderr)
    ) as progress:
        return simulate(options, progress)


def finish(output: Output, outcome: RunOutcome) -> int:
    """Tell how the run ended and return the shell's exit code."""
    from flip_fl.commands import summary

    told = summary.answer(outcome)
    if outcome.exit_code == ExitCode.DONE:
        output.answer(told, summary.text(told))
        output.next_step(f"flip-fl results verify {outcome.folder}")
        return int(ExitCode.DONE)
    error = _ended(outcome)
    if not output.common.json:
        output.answer(told, summary.text(told))
    output.error(error, told)
    return int(error.exit_code)


def _ended(outcome: RunOutcome) -> FlipError:
    from flip_fl.dashboard.words import status_word

    if outcome.exit_code == ExitCode.STOPPED:
        return FlipError("E0511", reason=outcome.reason or "no reason given", report=outcome.report)
    return FlipError(
        "E0507",
        status=status_word(outcome.status),
        reason=outcome.reason or "no reason given",
        why=_failures_told(len(outcome.story.failures)),
        fix=f"read {outcome.report}",
    )


def _failures_told(count: int) -> str:
    if count == 0:
        return ""
    return "the report has the traceback" if count == 1 else f"the report has the tracebacks of {count} failures"


def check_app_folder(folder: Path, command: str = "run") -> None:
    """Raises ``FlipError`` E0201 for a folder that holds nothing of an app, naming an app that lies below it.

    ``command`` is what is to be done with it.
    """
    if _looks_like_app(app_folder(folder)):
        return
    configs = [*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]
    below = sorted({path.parent for path in configs if _looks_like_app(path.parent)}, key=lambda p: (len(p.parts), p))
    if below:
        hint, suggestion = (
            f"the folder {below[0].relative_to(folder)}/ below it has both",
            f"flip-fl {command} {shlex.quote(str(below[0]))}",
        )
    elif not folder.is_dir():
        hint, suggestion = (
            ("it is not a folder" if folder.exists() else "there is no such folder"),
            f"flip-fl {command} --help",
        )
    else:
        hint, suggestion = "", "give the folder that holds the app's config.json"
    raise FlipError("E0201", folder=folder.resolve(), hint=hint, suggestion=suggestion)


def _looks_like_app(folder: Path) -> bool:
    """An app with a file missing is still an app: what it lacks is told later, by name."""
    return any((folder / name).is_file() for name in _CODE_FILES) or (
        (folder / "config.json").is_file() and (folder / "models.py").is_file()
    )


def chosen_slots(sites: int | None, named: list[str]) -> tuple[int, tuple[str, ...]]:
    """How many kit slots there are and which take part, in natural order.

    Raises ``FlipError`` E0312 for a name that is not among them.
    """
    numbers = [int(n.removeprefix("Trust_")) for n in named if _is_slot(n)]
    count = sites if sites is not None else max([2, *(n for n in numbers if n <= MAX_SITES)])
    slots = [f"Trust_{n}" for n in range(1, count + 1)]
    for name in named:
        if name not in slots:
            near = did_you_mean(name, slots)
            listed = f"slots: {', '.join(slots)}"
            raise FlipError(
                "E0312",
                slot=name,
                place="",
                suggestion=f"{near} ({listed})" if near else f"use one of the {listed}",
            )
    return count, tuple(sorted(set(named), key=natural_key)) if named else tuple(slots)


def _is_slot(name: str) -> bool:
    number = name.removeprefix("Trust_")
    return name.startswith("Trust_") and number.isdecimal() and str(int(number)) == number and number != "0"


def read_fault(text: str | None) -> HubFault | None:
    """Raises ``FlipError`` E0102 for a fault that cannot be rehearsed."""
    if text is None:
        return None
    from flip_fl.simulate.faults import FAULTS, HubFault

    try:
        return HubFault.parse(text)
    except ValueError as error:
        near = did_you_mean(text, FAULTS)
        raise FlipError("E0102", problem=f"--fault: {error}", usage=near or f"--fault {FAULTS[0]}") from None


def check_trust_database(kind: str, production: bool) -> None:
    """Raises ``FlipError`` E0102 for a database that is none of ``DATABASES``, or that no trust would have."""
    if kind not in DATABASES:
        near = did_you_mean(kind, DATABASES)
        problem = f"--trust-database: '{kind}' is none of {', '.join(DATABASES)}"
        raise FlipError("E0102", problem=problem, usage=near or f"--trust-database {DATABASES[0]}")
    if kind != DATABASES[0] and not production:
        problem = "--trust-database goes with --production: without it the sites read files"
        raise FlipError("E0102", problem=problem, usage=f"--production --trust-database {kind}")


def read_shares(text: str | None, slots: Sequence[str]) -> tuple[float, ...]:
    """Raises ``FlipError`` E0102 unless there is a positive number for each slot."""
    if text is None:
        return ()
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if len(shares) != len(slots) or not all(math.isfinite(share) and share > 0 for share in shares):
        problem = f"--shares: '{text}' is not a positive number for each of {', '.join(slots)}"
        raise FlipError("E0102", problem=problem, usage=f"--shares {','.join('1' for _ in slots)}")
    return shares


def read_curve(text: str | None, norm: float | None) -> tuple[float, ...]:
    """Raises ``FlipError`` E0102 unless these are some positive numbers, and ``norm`` is one."""
    usage = "--privacy-curve 1,8,64"
    if norm is not None and (text is None or not (math.isfinite(norm) and norm > 0)):
        problem = f"--clipping-norm {norm:g} is no positive number" if text else "--clipping-norm is of --privacy-curve"
        raise FlipError("E0102", problem=problem, usage=f"{usage} --clipping-norm 1")
    if text is None:
        return ()
    try:
        asked = tuple(float(part) for part in text.split(","))
    except ValueError:
        asked = ()
    if not 0 < len(asked) <= MAX_CURVE or not all(math.isfinite(epsilon) and epsilon > 0 for epsilon in asked):
        problem = f"--privacy-curve: '{text}' is not 1 to {MAX_CURVE} positive numbers with commas between them"
        raise FlipError("E0102", problem=problem, usage=usage)
    return asked


def check_data(data: Path | None, images: Path | None) -> None:
    """Raises ``FlipError`` E0902 or E0901 for a cohort or a folder of images that is not there."""
    if data is not None and not data.is_file():
        raise FlipError("E0902", path=data, problem="there is no such file", suggestion="give a CSV file with --data")
    if images is not None and not images.is_dir():
        raise FlipError(
            "E0901", problem=f"{images} is not a folder", suggestion="give the folder of the studies with --images"
        )
