"""One real run of a cell, and what is wrong with how it ended."""

from __future__ import annotations

import contextlib
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from flip_fl.reporting.stats import find_outboxes, read_stats
from flip_fl.results.verify import verify
from flip_fl.simulate.model import RunOptions
from flip_fl.simulate.run import BUCKET, run
from flip_fl.simulate.storage import storage
from flip_fl.values import ModelStatus
from tests.support.runs import processes_of
from tests.support.s3_server import S3Server
from tests.truth.app import write_cell_app
from tests.truth.cells import Cell, Column, Ending, Engine, Row, Stored
from tests.truth.scene import ROUNDS, SITES, Scene

STORE_TIMEOUT_S = 20.0
EVALUATED = "evaluation_results/evaluation_results.json"
_ORDER = [ModelStatus.PENDING, ModelStatus.INITIATED, ModelStatus.PREPARED, ModelStatus.RUNNING]


@dataclass(frozen=True)
class Ended:
    """How a run ended. ``reason`` is the hub's, ``beside`` what it was told as failures, ``statuses`` what it has gone
    through, ``problem`` what the run itself found wrong with its results, ``left`` the processes and reports that it
    has left behind, ``kept`` what is left of its models on the server's disk."""

    status: ModelStatus
    reason: str
    beside: tuple[str, ...]
    statuses: tuple[ModelStatus, ...]
    rounds: int
    stored: Stored
    problem: str
    exit_code: int
    left: tuple[str, ...]
    kept: tuple[str, ...]
    seconds: float


def run_cell(cell: Cell, home: Path) -> Ended:
    """Run ``cell`` in the empty folder ``home``. Raises ``AssertionError`` when its trouble could not be made."""
    out = home / "run"
    scene = Scene(cell, out, home / "gate")
    app = write_cell_app(home / "app", cell, run=out, gate=scene.gate)
    begun = time.monotonic()
    try:
        outcome = run(RunOptions(app=app, engine=cell.engine.value, sites=SITES, out=out), scene.watch)
        seconds = time.monotonic() - begun
    finally:
        scene.close()
    assert scene.done
    # An outbox whose run's end somebody else has told stays where it is; what counts is that nothing waits in it.
    waiting = [path for path in find_outboxes([out / "state" / "outbox"]) if read_stats(path).pending]
    left = processes_of(out) + [str(path) for path in waiting]
    problem = "" if outcome.reason == outcome.story.reason else outcome.reason or ""
    story = outcome.story
    return Ended(
        status=story.status,
        reason=story.reason or "",
        beside=tuple(row.text for row in story.feed if not row.success),
        statuses=tuple(step.status for step in story.history if step.applied),
        rounds=len([each for each in story.rounds if each.aggregated_at is not None]),
        stored=_stored(out),
        problem=problem,
        exit_code=outcome.exit_code,
        left=tuple(left),
        kept=_kept(out, story.model.id),
        seconds=round(seconds, 1),
    )


def problems(cell: Cell, ended: Ended) -> list[str]:
    """What is not as the table says; empty when all is."""
    wanted: Ending = cell.ending
    found = []
    if ended.status is not wanted.status:
        found.append(f"it ended {ended.status}, not {wanted.status}: {ended.reason or ended.problem}")
    if missing := [word for word in wanted.words if word not in ended.reason]:
        found.append(f"its reason does not say {missing}: {ended.reason!r}")
    if wanted.status is ModelStatus.RESULTS_UPLOADED and ended.reason:
        found.append(f"a success has a reason: {ended.reason!r}")
    if not any(all(word in text for word in wanted.beside) for text in ended.beside or ("",)):
        found.append(f"no failure is told with the words {wanted.beside}: {ended.beside}")
    if ended.stored is not wanted.stored:
        found.append(f"in the bucket is {ended.stored}, not {wanted.stored}")
    ends = [status for status in ended.statuses if status.is_terminal]
    if list(ended.statuses) != [*_ORDER[: len(ended.statuses) - 1], *ends] or len(ends) != 1:
        found.append(f"it went through {', '.join(ended.statuses)}: not on and on, and to one end")
    if wanted.status is ModelStatus.RESULTS_UPLOADED:
        if ended.problem or ended.exit_code != 0:
            found.append(f"exit code {ended.exit_code} for a success: {ended.problem}")
        if wanted.stored is Stored.BUNDLE and ended.rounds != _rounds(cell):
            found.append(f"the hub was told of {ended.rounds} whole rounds, not {_rounds(cell)}")
    elif ended.exit_code == 0:
        found.append("exit code 0 for what is no success")
    if ended.left:
        found.append(f"left behind: {', '.join(ended.left)}")
    if ended.kept and _ends_in_order(cell):
        found.append(f"the server's disk still holds {', '.join(ended.kept)}")
    return found


def _ends_in_order(cell: Cell) -> bool:
    """Whether the server's process comes to its own end, and can remove what it has kept."""
    if cell.row is Row.CLIENT and cell.engine is Engine.NVFLARE:
        return cell.column in (Column.UPLOAD, Column.CLEANUP)  # else the simulator ends it: NVFLARE would wait
    return cell.row not in (Row.SERVER, Row.CLEANUP)


def _rounds(cell: Cell) -> int:
    return 2 if cell.column is Column.BETWEEN else ROUNDS


def _kept(out: Path, model_id: str) -> tuple[str, ...]:
    """What is there of the folders that a server removes at its end."""
    nvflare = (out / "state" / "engine" / "server").glob("*/app_server")
    folders = [folder for app in nvflare for folder in (app / "model", app.parent / "flip_results")]
    folders.append(out / "state" / "flower" / model_id)
    return tuple(str(folder) for folder in folders if folder.exists())


def _stored(out: Path) -> Stored:
    """What the run's bucket holds now: its object store is started once more, and asked."""
    with storage(out / "state" / "s3", out / "logs" / "s3-after.log") as running:
        server = S3Server(running)
        keys = server.keys(BUCKET)
        if not keys:
            return Stored.NOTHING
        assert len(keys) == 1, keys
        with tempfile.TemporaryDirectory(prefix="flip-truth-") as folder:
            path = Path(folder, "results.zip")
            path.write_bytes(_fetched(server, keys[0]))
            verify(path)
            with zipfile.ZipFile(path) as bundle:
                evaluated = EVALUATED in bundle.namelist()
    return Stored.EVALUATION if evaluated else Stored.BUNDLE


def _fetched(server: S3Server, key: str) -> bytes:
    """The object; the gateway listens before the volume that holds it is there."""
    deadline = time.monotonic() + STORE_TIMEOUT_S
    while True:
        with contextlib.suppress(Exception):
            body: bytes = server.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
            return body
        assert time.monotonic() < deadline, "the store does not give back what it lists"
        time.sleep(0.2)
