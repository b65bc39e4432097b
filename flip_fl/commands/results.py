"""``flip-fl results get|verify``: the bundle of a run, fetched once and checked."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.commands.runs import Run, find
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from flip_fl.dashboard.story import StoredResults, Story

POLL_S = 1.0
DEFAULT_TIMEOUT_S = 3600.0


def build() -> typer.Typer:
    """The group ``results``."""
    group = typer.Typer(
        cls=guided_group("flip-fl results get runs/demo", "flip-fl results verify runs/demo"),
        help="Fetch and check what a run has stored.",
        rich_markup_mode=None,
        suggest_commands=False,
    )
    group.command(
        "get",
        cls=guided(
            "flip-fl results get runs/demo",
            "flip-fl results get demo --out results --overwrite --json",
            exits=(ExitCode.FAILED, ExitCode.UNREACHABLE, ExitCode.UNAUTHORISED, ExitCode.REFUSED),
        ),
    )(get)
    group.command(
        "verify",
        cls=guided("flip-fl results verify runs/demo", "flip-fl results verify demo --json", exits=(ExitCode.FAILED,)),
    )(verify)
    return group


def get(
    context: typer.Context,
    run: Annotated[str, typer.Argument(help="A run's folder, its name below runs/, or its model's id.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the bundle goes.")] = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another file of that name.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the run has ended.")] = False,
    timeout: Annotated[float, typer.Option(min=0, metavar="S", help="How long --wait waits.")] = DEFAULT_TIMEOUT_S,
) -> Any:
    """Copy a run's results here as <model id>.zip, checked against their digest.

    A second time nothing is fetched: the file that is there is compared.
    """
    from flip_fl.commands.answers import ResultsAnswer

    output = Output.of(context)
    found = find(run)
    story = _ended(found, timeout if wait else None)
    stored = story.results
    assert stored is not None
    target = out / f"{story.model.id}.zip"
    present = target.is_file() and stored.sha256 is not None and sha256(target) == stored.sha256
    if not present:
        if target.exists() and not overwrite:
            raise FlipError("E0703", path=target)
        out.mkdir(parents=True, exist_ok=True)
        _fetch(found, story, stored, target)
    answer = ResultsAnswer(story.model.id, target, sha256(target), target.stat().st_size, present)
    told = "present, sha256 matches" if present else f"{answer.size_bytes} bytes, sha256 {answer.sha256}"
    output.answer(answer, f"ok: {told}\n{target}")
    output.next_step(f"flip-fl results verify {target}")
    return int(ExitCode.DONE)


def verify(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="A results zip, or the run it belongs to.")],
) -> Any:
    """Check a bundle's digests, and that its model loads (in a process of its own) or its scores can be read."""
    from flip_fl.commands.answers import VerifyAnswer
    from flip_fl.results.verify import verify as check

    path = Path(bundle)
    if not path.is_file():
        path = _local_bundle(find(bundle))
    verified = check(path)
    manifest = verified.manifest
    answer = VerifyAnswer(
        bundle=path,
        sha256=sha256(path),
        files=len(manifest.files),
        left_out=list(manifest.left_out),
        models=list(verified.models),
        model_id=manifest.model_id,
        global_round=manifest.global_round,
    )
    verb = "loads" if len(answer.models) == 1 else "load"
    what = f"{', '.join(answer.models)} {verb}" if answer.models else "the results of the evaluation can be read"
    told = f"ok: {answer.files} files match their digests; {what}"
    Output.of(context).answer(answer, "\n".join([told, *(f"left out: {name}" for name in answer.left_out), str(path)]))
    return int(ExitCode.DONE)


def _ended(run: Run, timeout_s: float | None) -> Story:
    """The story of a run that has results, waited for when ``timeout_s`` is given.

    Raises ``FlipError`` E0701 without results (yet), E0706 after a wait in vain.
    """
    deadline = time.monotonic() + (timeout_s or 0.0)
    while True:
        story = run.story()
        if story is not None and story.results is not None and story.status.is_terminal:
            return story
        state = "no word from it yet" if story is None else story.headline.text
        if story is not None and story.status.is_terminal:
            raise FlipError("E0701", run=run.name, state=state, suggestion="read its report for the reason")
        if timeout_s is None:
            raise FlipError(
                "E0701", run=run.name, state=state, suggestion=f"flip-fl results get {run.folder or run.name} --wait"
            )
        if time.monotonic() >= deadline:
            again = f"flip-fl results get {run.folder or run.name} --wait --timeout {timeout_s * 2:.0f}"
            raise FlipError("E0706", run=run.name, seconds=f"{timeout_s:.0f}", state=state, suggestion=again)
        time.sleep(min(POLL_S, max(0.0, deadline - time.monotonic())))


def _fetch(run: Run, story: Story, stored: StoredResults, target: Path) -> None:
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        local = None if run.folder is None else run.folder / "results" / f"{story.model.id}.zip"
        if local is not None and local.is_file():
            shutil.copyfile(local, partial)
        elif run.settings is not None:
            from flip_fl.results.s3 import ResultsStore

            ResultsStore(run.settings).download(stored.address, partial)
        else:
            raise _unusable(stored.address, "it is no longer in the run's folder", "run the app again")
        if stored.sha256 is not None and sha256(partial) != stored.sha256:
            raise _unusable(stored.address, "its digest is not the one that was reported", "fetch it again")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _local_bundle(run: Run) -> Path:
    story = _ended(run, None)
    path = None if run.folder is None else run.folder / "results" / f"{story.model.id}.zip"
    if path is None or not path.is_file():
        raise _unusable(run.name, "it is not on this machine", f"flip-fl results get {run.name}")
    return path


def _unusable(bundle: object, problem: str, suggestion: str) -> FlipError:
    return FlipError("E0702", bundle=bundle, problem=problem, suggestion=suggestion)


def sha256(path: Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
