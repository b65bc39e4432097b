"""The end of a run that has a model, or scores: bundle it, check that it loads, store it, read back what was stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.app import weights
from flip_fl.app.arrays import read_arrays
from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.results import bundle
from flip_fl.results.evaluation import Evaluation
from flip_fl.results.model_folder import GLOBAL_MODEL, ModelFolder
from flip_fl.results.s3 import ResultsStore, Stored
from flip_fl.results.verify import verify
from flip_fl.settings import ServerSettings

PIECE_BYTES = 1 << 20


class DeliveryStopped(Exception):
    """The run was stopped while its results were being stored."""


@dataclass(frozen=True)
class Delivery:
    """What is delivered and where to. ``work`` is a folder for the copies that it needs; it must not exist.

    Without ``settings`` (development) the bundle stays in ``state_dir``, beside the outbox.
    """

    models: ModelFolder
    app_dir: Path
    model_id: UUID
    round: int
    work: Path
    state_dir: Path
    settings: ServerSettings | None


def deliver(this: Delivery, stopped: Callable[[], bool]) -> Stored:
    """Where the verified bundle lies, with its size and digest.

    An evaluation delivers its scores and no model. Raises ``FlipError`` E0702 when the model is missing or does not
    load from the bundle, ``ResultsUploadError`` when
    the bundle cannot be stored or is not what was sent, ``DeliveryStopped`` as soon as ``stopped`` says so.
    """
    this.work.mkdir(mode=0o700, parents=True)
    go_on = _go_on(stopped)
    zipped = _bundle(this, go_on)
    go_on()
    stored = _keep(this, zipped) if this.settings is None else _upload(this, this.settings, zipped, go_on)
    go_on()
    return stored


def upload_problem(error: ResultsUploadError) -> str:
    """Why results could not be stored, in words: the kind of the cause, never its text."""
    return f"{error} ({type(error.__cause__).__name__ if error.__cause__ else 'no cause given'})"


def tidy(folders: list[Path]) -> list[str]:
    """Remove a run's local copies; what could not be removed, in words. It never changes the outcome."""
    problems = []
    for folder in folders:
        try:
            if folder.exists():
                shutil.rmtree(folder)
        except OSError as error:
            problems.append(f"clean-up: {folder.name} could not be removed ({error.strerror})")
    return problems


def _bundle(this: Delivery, go_on: Callable[[], None]) -> Path:
    inventory = this.models.inventory()
    evaluation = Evaluation.read(this.models.path)
    if GLOBAL_MODEL not in inventory and evaluation is None:
        raise FlipError("E0702", bundle="results", problem="the server has no global model", suggestion="")
    contents = this.work / "contents"
    contents.mkdir()
    if evaluation is not None:
        evaluation.write(contents)
    else:
        weights.export_models(
            this.app_dir, {contents / f"{name}.pt": read_arrays(path) for name, path in inventory.items()}
        )
        go_on()
        history = this.models.history()
        (contents / "metrics.json").write_text(json.dumps(history, indent=2), encoding="utf-8")
        _write_cross_validation(history, contents)
    zipped = this.work / "results.zip"
    bundle.build(contents, zipped, app_dir=this.app_dir, model_id=str(this.model_id), global_round=this.round)
    go_on()
    verify(zipped)
    return zipped


def _keep(this: Delivery, zipped: Path) -> Stored:
    kept = this.state_dir / "results" / f"{this.model_id}.zip"
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.move(zipped, kept)
    size, digest = bundle.fingerprint(kept)
    return Stored(str(kept), size, digest)


def _upload(this: Delivery, settings: ServerSettings, zipped: Path, go_on: Callable[[], None]) -> Stored:
    store = ResultsStore(settings)
    try:
        stored = store.upload(lambda: _pieces(zipped, go_on), this.model_id)
    except ResultsUploadError as error:
        if isinstance(error.__cause__, DeliveryStopped):
            raise error.__cause__ from None
        raise
    try:
        fetched = store.download(stored.address, zipped.with_suffix(".fetched"))
    except FlipError as error:
        raise ResultsUploadError from error
    if (fetched.size_bytes, fetched.sha256) != bundle.fingerprint(zipped):
        raise ResultsUploadError("the stored results are not the bytes that were sent")
    return stored


def _write_cross_validation(history: Mapping[str, Any], contents: Path) -> None:
    """The last round's validation of the global model, in NVFLARE's form: ``{client: {SRV_<model>: {…}}}``.

    Sites' own models, where they were scored at every site, stand beside it by their slots.
    """
    rounds = history.get("validate") or {}
    if not rounds:
        return
    last = rounds[max(rounds, key=int)]
    target = contents / "cross_site_val" / "cross_val_results.json"
    target.parent.mkdir()
    scores = {slot: {f"SRV_{GLOBAL_MODEL}.pt": metrics} for slot, metrics in last.items()}
    for model, found in (history.get("cross_site") or {}).items():
        for slot, metrics in found.items():
            scores.setdefault(slot, {})[model] = metrics
    target.write_text(json.dumps(scores, indent=2), encoding="utf-8")


def _pieces(path: Path, go_on: Callable[[], None]) -> Iterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(PIECE_BYTES):
            go_on()
            yield piece


def _go_on(stopped: Callable[[], bool]) -> Callable[[], None]:
    def check() -> None:
        if stopped():
            raise DeliveryStopped

    return check
