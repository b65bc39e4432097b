"""``flip-fl results get|verify|export``: the bundle of a run, fetched once, checked, and made into another format."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flip_fl.commands.common import guided, guided_group
from flip_fl.commands.output import Output
from flip_fl.commands.runs import Run, find
from flip_fl.errors import ExitCode, FlipError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flip_fl.commands.answers import ScoreAgain, VerifyAnswer
    from flip_fl.dashboard.story import StoredResults, Story
    from flip_fl.results.scores import SiteScores

POLL_S = 1.0
DEFAULT_TIMEOUT_S = 3600.0


class Format(StrEnum):
    """What a model can be made into."""

    TORCHSCRIPT = "torchscript"

    @property
    def suffix(self) -> str:
        return ".ts"


def build() -> typer.Typer:
    """The group ``results``."""
    group = typer.Typer(
        cls=guided_group(
            "flip-fl results get runs/demo",
            "flip-fl results verify runs/demo",
            "flip-fl results export runs/demo --format torchscript --shape 30",
        ),
        help="Fetch, check and export what a run has stored.",
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
        cls=guided(
            "flip-fl results verify runs/demo",
            "flip-fl results verify demo --json",
            "flip-fl results verify model.zip --data Trust_1=cohort.csv --images studies",
            exits=(ExitCode.FAILED,),
        ),
    )(verify)
    group.command(
        "export",
        cls=guided(
            "flip-fl results export runs/demo --format torchscript --shape 30",
            "flip-fl results export model.zip --format torchscript --shape 30 --model best_FL_global_model.pt",
            exits=(ExitCode.FAILED, ExitCode.REFUSED),
        ),
    )(export)
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
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[SLOT=]CSV", help="A site's cohort: the model must score on it what the run recorded. Repeatable."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="The folder with the cohort's studies.")] = None,
) -> Any:
    """Check a bundle's digests, that its model loads, in a process of its own, and gives its score again.

    The score needs the data that it was measured on: that of a simulated run is in its folder, else give it with
    --data.
    """
    from flip_fl.commands.answers import VerifyAnswer
    from flip_fl.results.scores import recorded
    from flip_fl.results.verify import verify as check

    path, folder = _located(bundle)
    verified = check(path)
    manifest = verified.manifest
    scores, told = [], recorded(path)
    if data or (folder is not None and verified.models):
        scores = _scored_again(path, told, data or [], images, folder)
    answer = VerifyAnswer(
        bundle=path,
        sha256=sha256(path),
        files=len(manifest.files),
        left_out=list(manifest.left_out),
        models=list(verified.models),
        model_id=manifest.model_id,
        global_round=manifest.global_round,
        scores=scores,
    )
    Output.of(context).answer(answer, "\n".join(_verified(answer, told)))
    return int(ExitCode.DONE)


def export(
    context: typer.Context,
    bundle: Annotated[str, typer.Argument(help="A results zip, or the run it belongs to.")],
    to: Annotated[Format, typer.Option("--format", help="What to make of the model.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="Which of the bundle's models.")] = "FL_global_model.pt",
    shape: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,…",
            help="One input without its batch, as 1,28,28. Not needed where models.py has example_input().",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where it goes, else beside you.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file of that name.")] = False,
) -> Any:
    """Make a file of the model that runs without its code, and compare the two on the same inputs.

    What differs by more than rounding, or gives NaN, is not kept.
    """
    from flip_fl.commands.answers import ExportAnswer
    from flip_fl.results.export import export as make

    path, _ = _located(bundle)
    target = out or Path(f"{Path(model).stem}{to.suffix}")
    if target.exists() and not overwrite:
        raise FlipError("E0703", path=target, why="nothing is replaced unasked")
    made = make(path, target, model=model, shape=_shape(shape))
    answer = ExportAnswer(
        bundle=path,
        path=target,
        format=to.value,
        model=model,
        sha256=sha256(target),
        size_bytes=target.stat().st_size,
        inputs=made.inputs,
        batches=list(made.batches),
        max_difference=made.max_difference,
        tolerance=made.tolerance,
    )
    told = f"ok: compared on {made.inputs} inputs, the largest difference is {made.max_difference:.2g}"
    Output.of(context).answer(answer, f"{told}\n{target}")
    return int(ExitCode.DONE)


def _located(bundle: str) -> tuple[Path, Path | None]:
    """The zip that is meant, and the folder of its run where a run was named."""
    path = Path(bundle)
    if path.is_file():
        return path, None
    run = find(bundle)
    return _local_bundle(run), run.folder


def _scored_again(
    path: Path, told: SiteScores, data: list[str], images: Path | None, folder: Path | None
) -> list[ScoreAgain]:
    """The scores that were had again on what was given, else on the data of the simulated run in ``folder``."""
    from flip_fl.commands.answers import ScoreAgain
    from flip_fl.results.scores import again, whose

    given = [("", "", each) if Path(each).is_file() else each.partition("=") for each in data]
    for _, _, csv in given:
        if not Path(csv).is_file():
            raise FlipError("E0102", problem=f"--data: there is no file {csv or data[0]}", usage="--data [SLOT=]CSV")
    found = [each for slot, _, csv in given if not slot for each in whose(path, told, Path(csv), images)]
    named = {slot: Path(csv) for slot, _, csv in given if slot}
    if not data and folder is not None:
        named, images = _simulated(folder, told)
    if named:
        found += again(path, told, named, images)
    return [ScoreAgain(each.slot, each.metric, each.recorded, each.reproduced) for each in found]


def _simulated(folder: Path, told: SiteScores) -> tuple[dict[str, Path], Path | None]:
    """The cohorts of a simulated run's sites, where they are still there, and the images' folder."""
    from flip_fl.settings import DevSettings, load

    cohorts: dict[str, Path] = {}
    images: Path | None = None
    for slot in told:
        files = (folder / "state" / each / f"{slot}.env" for each in ("local", "settings"))
        file = next((each for each in files if each.is_file()), None)
        if file is None:
            continue
        settings = load(DevSettings, file)
        if settings.dataframe is not None and settings.dataframe.is_file():
            cohorts[slot], images = settings.dataframe, settings.images_dir
    return cohorts, images


def _verified(answer: VerifyAnswer, told: SiteScores) -> Iterator[str]:
    """What was checked, and what was not, line by line."""
    verb = "loads" if len(answer.models) == 1 else "load"
    what = f"{', '.join(answer.models)} {verb}" if answer.models else "the results of the evaluation can be read"
    yield f"ok: {answer.files} files match their digests; {what}"
    for score in answer.scores:
        yield f"{score.slot}: {score.metric} {score.reproduced:.6g}, as the run recorded it"
    if answer.models and told and not answer.scores:
        for slot, metrics in told.items():
            yield f"{slot}: {', '.join(f'{name} {value:.6g}' for name, value in metrics.items())} was recorded"
        yield "not tried: to score the model again takes a site's data (--data SLOT=CSV)"
    for name in answer.left_out:
        yield f"left out: {name}"
    yield str(answer.bundle)


def _shape(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or any(size < 1 for size in shape):
        raise FlipError("E0102", problem=f"--shape {text} is none", usage="--shape 1,28,28: whole numbers from 1")
    return shape


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
