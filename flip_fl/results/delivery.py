"""The end of a run that has a model, or scores: bundle it, check that it loads, store it, read back what was stored."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.app import weights
from flip_fl.app.isolation.choice import at_server
from flip_fl.errors import FlipError, ResultsUploadError
from flip_fl.results.bundle import Bundle, gather, write
from flip_fl.results.contents import CROSS_VALIDATION, EVALUATED, GLOBAL_MODEL, METRICS, TRAINED, Contents
from flip_fl.results.evaluation import Evaluation
from flip_fl.results.model_folder import ModelFolder
from flip_fl.results.parts import Check
from flip_fl.results.s3 import ResultsStore, Stored
from flip_fl.results.sending import WAITS_S, send
from flip_fl.results.verify import check
from flip_fl.settings import ServerSettings

KEPT = "results"


class DeliveryStopped(Exception):
    """The run was stopped while its results were being stored."""


@dataclass(frozen=True)
class Delivery:
    """What is delivered and where to. ``work`` is a folder for what is made for it; it must not exist.

    ``contents`` says what belongs into the bundle: its models are those of ``models``, ``files`` (name in the bundle →
    file) are what else the job has made. Without ``settings`` (development) the bundle stays in ``state_dir``, beside
    the outbox. ``waits_s``: between attempts to store it.
    """

    models: ModelFolder
    app_dir: Path
    model_id: UUID
    round: int
    work: Path
    state_dir: Path
    settings: ServerSettings | None
    contents: Contents = TRAINED
    files: Mapping[str, Path] = field(default_factory=dict)
    waits_s: Sequence[float] = WAITS_S


def deliver(this: Delivery, stopped: Callable[[], bool]) -> Stored:
    """Where the verified bundle lies, with its size and digest; an evaluation delivers its scores and no model.

    Raises ``FlipError`` E0702 when something that belongs in is missing or a model does not load from the bundle,
    ``ResultsUploadError`` when the bundle cannot be stored or is not what was sent (it is kept in ``state_dir`` then),
    ``DeliveryStopped`` as soon as ``stopped`` says so.
    """
    go_on = _go_on(stopped)
    try:
        this.work.mkdir(mode=0o700, parents=True)
        bundle = _bundle(this, go_on)
        go_on()
        stored = _keep(this, bundle) if this.settings is None else _upload(this, this.settings, bundle, go_on)
    except OSError as error:
        problem = f"the server cannot write them ({error.strerror or type(error).__name__})"
        raise FlipError("E0702", bundle="results", problem=problem, suggestion="make room on its disk") from None
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
                shutil.rmtree(folder, onerror=_unless_gone)
        except OSError as error:
            problems.append(f"clean-up: {folder.name} could not be removed ({error.strerror or error})")
    return problems


def _unless_gone(_function: object, _path: str, problem: tuple[type, BaseException, object]) -> None:
    """What somebody else has removed meanwhile is no reason to leave the rest there."""
    if not isinstance(problem[1], FileNotFoundError):
        raise problem[1]


def _bundle(this: Delivery, go_on: Check) -> Bundle:
    """What is stored, its models written and loaded again from nothing but what is in the bundle."""
    inventory = {f"{name}.pt": path for name, path in this.models.inventory().items()}
    evaluation = Evaluation.read(this.models.path)
    contents = this.contents if evaluation is None else EVALUATED
    missing = [item.name for item in contents.models if item.required and item.name not in inventory]
    if missing:
        problem = "the server has no global model" if missing[0] == GLOBAL_MODEL else f"the server has no {missing[0]}"
        raise FlipError("E0702", bundle="results", problem=problem, suggestion="")
    made = this.work / "contents"
    made.mkdir()
    stages: dict[str | None, dict[Path, Path]] = {}
    for item in contents.models:
        if item.name in inventory:
            stages.setdefault(item.stage, {})[made / item.name] = inventory[item.name]
    walls = at_server(this.settings)
    for stage, models in stages.items():
        weights.export_models(this.app_dir, models, stage, walls=walls)
        go_on()
    history = this.models.history()
    if evaluation is not None:
        evaluation.write(made)
    elif METRICS in contents.names and METRICS not in this.files:
        (made / METRICS).write_text(json.dumps(history, indent=2), encoding="utf-8")
    if CROSS_VALIDATION in contents.names and CROSS_VALIDATION not in this.files:
        _write_cross_validation(history, made)
    others = {name: path for name, path in inventory.items() if name not in contents.names}
    bundle = gather(
        made,
        app_dir=this.app_dir,
        model_id=str(this.model_id),
        global_round=this.round,
        contents=contents,
        files={**others, **this.files},
    )
    go_on()
    check(bundle, walls=walls)
    return bundle


def _keep(this: Delivery, bundle: Bundle) -> Stored:
    kept = this.state_dir / KEPT / f"{this.model_id}.zip"
    kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return Stored(str(kept), *write(bundle, kept))


def _upload(this: Delivery, settings: ServerSettings, bundle: Bundle, go_on: Check) -> Stored:
    store = ResultsStore(settings)
    try:
        return send(
            store, bundle.chunks, this.model_id, size_bytes=bundle.size_bytes, check=go_on, waits_s=this.waits_s
        )
    except ResultsUploadError as error:
        if isinstance(error.__cause__, DeliveryStopped | FlipError):
            raise error.__cause__ from None
        if isinstance(error.__cause__, FileNotFoundError):
            problem = "the server's copy of the model went before it was stored"
            raise FlipError("E0702", bundle="results", problem=problem, suggestion="") from None
        go_on()
        # What took days to train is not thrown away because a bucket was away for a while.
        try:
            _keep(this, bundle)
        except (OSError, FlipError):
            raise error from error.__cause__
        where = f"{KEPT}/{this.model_id}.zip"
        raise ResultsUploadError(f"{error}; the FL server keeps them in its state folder, {where}") from error.__cause__


def _write_cross_validation(history: Mapping[str, Any], contents: Path) -> None:
    """The last round's validation of the global model, in NVFLARE's form: ``{client: {SRV_<model>: {…}}}``.

    Sites' own models, where they were scored at every site, stand beside it by their slots.
    """
    rounds = history.get("validate") or {}
    if not rounds:
        return
    last = rounds[max(rounds, key=int)]
    target = contents / CROSS_VALIDATION
    target.parent.mkdir()
    scores = {slot: {f"SRV_{GLOBAL_MODEL}": metrics} for slot, metrics in last.items()}
    for model, found in (history.get("cross_site") or {}).items():
        for slot, metrics in found.items():
            scores.setdefault(slot, {})[model] = metrics
    target.write_text(json.dumps(scores, indent=2), encoding="utf-8")


def _go_on(stopped: Callable[[], bool]) -> Check:
    def check() -> None:
        if stopped():
            raise DeliveryStopped

    return check
