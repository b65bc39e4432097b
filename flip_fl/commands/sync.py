"""``flip-fl sync``: deliver what earlier runs could not send to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided
from flip_fl.commands.output import Output
from flip_fl.commands.table import table
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.commands.answers import Synced
    from flip_fl.commands.origins import Origins
    from flip_fl.reporting.session import SyncResult

DEFAULT_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    app.command(
        "sync",
        cls=guided(
            "flip-fl sync state/",
            "flip-fl sync state/ --settings local/flip.env --timeout 300 --json",
            exits=(ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.UNAUTHORISED),
        ),
    )(sync)


def sync(
    context: typer.Context,
    paths: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PATH]...", help="Outbox files, state folders, run folders (FLIP_STATE_DIR)."),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The settings file (./local/flip.env, $FLIP_SETTINGS_DIR/server.env)."),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="S", help="For each outbox; what is not sent by then stays.")
    ] = DEFAULT_TIMEOUT_S,
) -> Any:
    """Send what waits in outboxes to the hub. An outbox of a live run is left to that run."""
    from flip_fl.commands.answers import SyncAnswer
    from flip_fl.commands.origins import Origins, find_file, server_settings
    from flip_fl.commands.outbox_check import files
    from flip_fl.reporting.session import sync as deliver

    output = Output.of(context)
    file = find_file(settings)
    origins = Origins(file)
    wanted = files(paths or _state(origins))
    results = deliver(wanted, server_settings(settings), timeout_s=timeout) if wanted else []
    answer = SyncAnswer([_synced(result) for result in results])
    error = _error(results, origins)
    if error is None:
        output.answer(answer, _text(answer.outboxes))
        return int(ExitCode.DONE)
    if not output.common.json:
        output.answer(answer, _text(answer.outboxes))
    output.error(error, answer)
    return int(error.exit_code)


def _state(origins: Origins) -> list[Path]:
    origin = origins.get("FLIP_STATE_DIR")
    if origin is None:
        raise FlipError("E0102", problem="flip-fl sync needs a PATH", usage="flip-fl sync STATE_FOLDER")
    return [Path(origin.value)]


def _synced(result: SyncResult) -> Synced:
    from flip_fl.commands.answers import Synced

    return Synced(result.path, result.state.value, result.sent, result.left, result.problem)


def _error(results: list[SyncResult], origins: Origins) -> FlipError | None:
    """The error that says most of what is left: a refused key first, then a silent hub, then a bad file."""
    from flip_fl.commands.hub_probe import KEY, URL, refusal_reason
    from flip_fl.commands.origins import masked
    from flip_fl.reporting.session import SyncState

    by_state = {result.state: result for result in reversed(results) if not result.ok}
    if SyncState.UNAUTHORISED in by_state:
        return FlipError("E0411", key=origins.told(KEY), reason=refusal_reason(origins, None))
    silent = by_state.get(SyncState.UNREACHABLE) or by_state.get(SyncState.TIMED_OUT)
    if silent is not None:
        address = origins.get(URL)
        kept = sum(result.left for result in results)
        return FlipError(
            "E0403",
            url=masked(address.value) if address else "",
            problem=silent.problem or "not done in time",
            safe=f"{kept} events kept in the outbox; nothing is lost",
        )
    bad = by_state.get(SyncState.UNUSABLE)
    return None if bad is None else FlipError("E0412", path=bad.path, problem=bad.problem or "unusable")


def _text(rows: list[Synced]) -> str:
    if not rows:
        return "nothing waits to be sent"
    body = [[str(row.path), row.state.replace("_", " "), str(row.sent), str(row.left)] for row in rows]
    return table(["outbox", "state", "sent", "left"], body, right=frozenset({2, 3}))
