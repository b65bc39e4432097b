"""The one call behind which researcher code runs: plain data in, plain data out."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flip_fl.aggregate.differences import difference
from flip_fl.app.batch import Batcher, Publish
from flip_fl.app.config import DIFF, FULL, AppConfig, load_config
from flip_fl.app.failures import Failure
from flip_fl.app.faults import AppError, TaskAborted
from flip_fl.app.loader import AppLoader
from flip_fl.app.local_state import LocalState
from flip_fl.app.needs import model_call
from flip_fl.app.output import withheld
from flip_fl.app.parts import Parts, freeze, merged, parts_of
from flip_fl.app.proximal import proximal
from flip_fl.app.site import Ledger, Site, SiteSpec
from flip_fl.app.tensors import Arrays, load_into, to_arrays
from flip_fl.data.index import open_index
from flip_fl.privacy.egress import Egress, EgressPolicy
from flip_fl.privacy.supplementary import is_supplementary
from flip_fl.values import SERVER_NAME, JobType, Task
from flip_fl.wire import SiteBatch

if TYPE_CHECKING:
    import torch

    from flip_fl.data.sources import Source

__all__ = ["BOOKKEEPING", "Failure", "Result", "Session", "derived_seed", "run_task", "seed_everything"]

BOOKKEEPING = frozenset({"num_examples", "num-examples", "num-iterations"})
MODULES = {Task.TRAIN: "trainer", Task.VALIDATE: "trainer", Task.EVALUATE: "evaluator"}


@dataclass(frozen=True)
class Result:
    """What a task gave. ``ok`` means that ``arrays`` (train only), ``metrics`` and ``num_examples`` can be used.

    ``supplementary`` (evaluate only) are lists and dictionaries of numbers, of what JSON has.

    ``arrays`` are what of the model travels: as it is (``params_type`` FULL), or what training changed of it (DIFF).

    ``reports`` are the wire items of the task as JSON-able mappings, the ones that were published live included,
    under the same ids and numbers. ``failure`` is set for an exception, ``aborted`` when the run was stopped.
    """

    ok: bool
    arrays: Arrays = field(default_factory=dict)
    params_type: str = FULL
    num_examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    supplementary: dict[str, Any] = field(default_factory=dict)
    reports: SiteBatch | None = None
    failure: Failure | None = None
    aborted: bool = False

    @property
    def events(self) -> list[dict[str, Any]]:
        """The items of ``reports``."""
        return self.reports.items if self.reports is not None else []

    @property
    def made(self) -> int:
        """How many items the task has made: more than ``events`` where not all could be kept."""
        return self.reports.made or 0 if self.reports is not None else 0


class Session:
    """What stays between the tasks of one site's process: the app's modules, its source, its memory.

    ``publish`` gets live batches of wire items, on a thread of its own (None: nobody listens); ``aborted`` says
    whether the run was stopped. ``show_output`` lets the app's prints through, for a developer's own machine.
    ``failed`` gets the exception that ended a task, as it was raised: its text may hold patients' data. ``job`` is the
    engine's name for the run: its images are removed with ``release``, or, when its processes are killed, when the next
    job starts.
    """

    def __init__(
        self,
        app_dir: Path,
        source: Source,
        publish: Publish | None = None,
        aborted: Callable[[], bool] = lambda: False,
        memory: dict[str, Any] | None = None,
        *,
        show_output: bool = False,
        failed: Callable[[BaseException], None] = lambda error: None,
        job: str = "",
    ) -> None:
        self.app_dir = app_dir
        self.source = source
        self.publish = publish
        self.aborted = aborted
        self.memory: dict[str, Any] = {} if memory is None else memory
        self.show_output = show_output
        self.failed = failed
        self.loader = AppLoader(app_dir)
        self.output_reported = False
        self.told: dict[str, str] = {}
        self._config: AppConfig | None = None
        self.local = LocalState(source.state_dir, job)
        self.index = open_index(source, job)
        if self.index is not None:
            # What an earlier job left must not hold up this one.
            threading.Thread(target=self.index.sweep, args=(source,), name="flip-sweep", daemon=True).start()

    @property
    def config(self) -> AppConfig:
        """The app's config, read once. Raises ``FlipError`` as ``load_config`` does."""
        if self._config is None:
            self._config = load_config(self.app_dir)
        return self._config

    def close(self) -> None:
        """Forget what the app has built: data sets may hold files and workers. The job goes on elsewhere."""
        self.memory.clear()
        if self.index is not None:
            self.index.close()

    def release(self) -> None:
        """The job is over: as ``close``, and its images and the site's own part of the model are removed."""
        self.memory.clear()
        self.local.clear()
        if self.index is not None:
            self.index.release()


def initial_seed(seed: int) -> int:
    """What is seeded before the starting model is made, at the server and wherever a part of it must be the same."""
    return derived_seed(seed, SERVER_NAME, 0, "init")


def run_task(task: Task, arrays: Mapping[str, Any], spec: SiteSpec, session: Session) -> Result:
    """Run ``train``, ``validate`` or ``evaluate`` of the app on ``arrays`` (names and shapes of ``get_model()``).

    Seeds python, numpy and torch first. Never raises but ``KeyboardInterrupt``: whatever the app does becomes a
    ``Failure``; a stop of the run becomes ``aborted``.
    """
    spec = replace(spec, task=Task(task))
    # Not validated here, where it could raise: an odd round is told by the first metric that has it.
    reports = SiteBatch.model_construct(task=spec.task.value, stage=spec.stage, round=spec.round)
    batcher = Batcher(session.publish, reports)
    egress = Egress(spec.where())
    ledger = Ledger(spec, egress, batcher)
    outcome: Result
    try:
        declared = session.config.metrics
        egress.policy = EgressPolicy(declared=frozenset(declared) if declared is not None else None)
        outcome = _run(spec, arrays, session, ledger)
    except KeyboardInterrupt:
        ledger.close()
        raise
    except TaskAborted:
        outcome = Result(ok=False, aborted=True)
    except BaseException as error:
        # A stop tears down what the app was using: what it then raises is the stop's doing, not the app's.
        if session.aborted():
            outcome = Result(ok=False, aborted=True)
        else:
            outcome = Result(ok=False, failure=_failure(error, spec, session))
    ledger.close()
    return replace(outcome, reports=batcher.kept)


def derived_seed(seed: int, slot: str, round: int, task: str) -> int:
    """The 64-bit seed of one task, the same on every engine: sha256 of seed, slot, round and task."""
    digest = hashlib.sha256(f"{seed}|{slot}|{round}|{task}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def seed_everything(value: int) -> None:
    """Seed python's, numpy's and torch's global generators."""
    import torch

    random.seed(value)
    np.random.seed(value % 2**32)
    torch.manual_seed(value % 2**63)


def _run(spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger) -> Result:
    config = session.config
    with withheld(session.app_dir, active=not session.show_output) as output:
        try:
            returned, sent = _call(spec, arrays, session, ledger, config)
        finally:
            if output.lines and not session.output_reported:
                session.output_reported = True
                ledger.note(
                    f"{output.lines} lines that the app printed in {spec.where()} are withheld, here and from now on: "
                    "they could hold patients' data; use site.log() for numbers",
                    success=True,
                )
    examples = _examples(returned, spec)
    prefix = "train_" if spec.task is Task.TRAIN else ""
    metrics: dict[str, float] = {}
    supplementary: dict[str, Any] = {}
    for name, value in returned.items():
        if spec.task is Task.EVALUATE and is_supplementary(value):
            kept = ledger.supplementary(name, value)
            if kept is not None:
                supplementary[name] = kept
            continue
        # The result leaves the trust, too: it holds only what may leave as a metric.
        label = f"{prefix}{name}" if isinstance(name, str) else name
        if name not in BOOKKEEPING and ledger.metric(label, value, returned=True):
            metrics[name] = float(value)
    if spec.task is Task.EVALUATE and not metrics and not supplementary:
        raise AppError("evaluate() returned no value that may leave the site: its result would be empty")
    return Result(
        ok=True,
        arrays=sent,
        params_type=config.params_type,
        num_examples=examples,
        metrics=metrics,
        supplementary=supplementary,
        aborted=session.aborted(),
    )


def _call(
    spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger, config: AppConfig
) -> tuple[Mapping[Any, Any], Arrays]:
    # Seeded twice: an import or get_model() that draws numbers must not shift those of the task.
    seed_everything(derived_seed(spec.seed, spec.slot, spec.round, spec.task.value))
    function = session.loader.function(MODULES[spec.task], spec.task.value)
    site = Site(
        spec,
        source=session.source,
        ledger=ledger,
        aborted=session.aborted,
        memory=session.memory,
        max_skipped=config.max_skipped,
        index=session.index,
        told=session.told,
    )
    model, parts = _model(spec, arrays, session, config)
    model.to(site.device)
    seed_everything(derived_seed(spec.seed, spec.slot, spec.round, spec.task.value))
    trains = spec.task is Task.TRAIN
    with proximal(model, config.fedprox_mu if trains else None):
        returned = function(model, site, copy.deepcopy(dict(config.raw)))
    if not isinstance(returned, Mapping):
        raise AppError(
            f"{spec.task.value}() returned {type(returned).__name__}; it must return a dict of num_examples and numbers"
        )
    return returned, _sent(model, parts, arrays, spec, session, config) if trains else {}


def _model(
    spec: SiteSpec, arrays: Mapping[str, Any], session: Session, config: AppConfig
) -> tuple[torch.nn.Module, Parts | None]:
    """The app's model with what the server has sent, and with what of it is the site's own. Raises ``AppError``.

    Parts is None where all of the model travels.
    """
    partly = config.aggregate_only_regex is not None or config.fedbn
    if partly:
        # What does not travel must be what the server started from.
        seed_everything(initial_seed(spec.seed))
    model = _built(spec, session, config)
    if not partly:
        load_into(model, arrays)
        return model, None
    base = to_arrays(model)
    parts = parts_of(model, config)
    unlike = sorted({*parts.travelling} ^ {*arrays})
    if unlike:
        raise AppError(f"the server and this site differ in which parameters travel: {', '.join(unlike[:3])}")
    own = session.local.read(_local_key(spec))
    load_into(model, merged(merged(base, {name: own[name] for name in parts.local if name in own}), arrays))
    freeze(model, parts)
    return model, parts


def _built(spec: SiteSpec, session: Session, config: AppConfig) -> torch.nn.Module:
    part = spec.model if config.job_type is JobType.EVALUATION else spec.stage
    if config.job_type is JobType.EVALUATION and part not in config.models:
        raise AppError("the server asks for a model that this site's config.json does not name in models")
    function, arguments = model_call(config, part)
    model: torch.nn.Module = session.loader.function("models", function)(*arguments)
    return model


def _sent(
    model: torch.nn.Module,
    parts: Parts | None,
    received: Mapping[str, Any],
    spec: SiteSpec,
    session: Session,
    config: AppConfig,
) -> Arrays:
    """What of the trained model goes back; what is the site's own is kept here."""
    trained = to_arrays(model)
    if parts is not None:
        if parts.local:
            session.local.keep(_local_key(spec), {name: trained[name] for name in parts.local})
        trained = {name: trained[name] for name in parts.travelling}
    if config.params_type != DIFF:
        return trained
    if list(trained) != [name for name in trained if name in received]:
        return trained  # names that were not sent: the server says so
    return difference(received, trained)


def _local_key(spec: SiteSpec) -> str:
    return f"{spec.slot}-{spec.stage}" if spec.stage else spec.slot


def _examples(returned: Mapping[Any, Any], spec: SiteSpec) -> int:
    if "num_examples" not in returned:
        raise AppError(f'{spec.task.value}() returned no "num_examples"; it must say on how many examples it worked')
    value = returned["num_examples"]
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise AppError(
            f'{spec.task.value}() returned a {type(value).__name__} as "num_examples"; it must be a whole number from 0'
        )
    return int(value)


def _failure(error: BaseException, spec: SiteSpec, session: Session) -> Failure:
    with contextlib.suppress(Exception):
        session.failed(error)
    return Failure.of(
        error, slot=spec.slot, task=spec.task.value, round=spec.round, stage=spec.stage, app_dir=session.app_dir
    )
