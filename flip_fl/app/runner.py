"""The one call behind which researcher code runs: plain data in, plain data out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from flip_fl.app.batch import Batcher
from flip_fl.app.calls import Call
from flip_fl.app.config import DIFF, FULL
from flip_fl.app.failures import Failure
from flip_fl.app.faults import AppError, ScriptFailed, TaskAborted
from flip_fl.app.functions import call_functions
from flip_fl.app.seeds import derived_seed, seed_everything
from flip_fl.app.session import Session
from flip_fl.app.site import Ledger, SiteSpec
from flip_fl.app.tensors import Arrays
from flip_fl.privacy.egress import EPSILON_METRIC, Egress
from flip_fl.privacy.gate import Asked
from flip_fl.privacy.labels import LABEL_COUNTS
from flip_fl.privacy.supplementary import is_supplementary
from flip_fl.values import JobType, Task
from flip_fl.wire import SiteBatch, SiteFacts

__all__ = ["BOOKKEEPING", "Failure", "Result", "Session", "derived_seed", "run_task", "seed_everything"]

BOOKKEEPING = frozenset({"num_examples", "num-examples", "num-iterations"})


@dataclass(frozen=True)
class Result:
    """What a task gave. ``ok`` means that ``arrays`` (train only), ``metrics`` and ``num_examples`` can be used.

    ``supplementary`` (evaluate only) are lists and dictionaries of numbers, of what JSON has.

    ``arrays`` are what of the model travels: as it is (``params_type`` FULL), or what training changed of it (DIFF).

    ``labels`` (train only): how often each label is among the examples, as far as that may leave.

    ``reports`` are the wire items of the task as JSON-able mappings, the ones that were published live included,
    under the same ids and numbers. ``failure`` is set for an exception, ``aborted`` when the run was stopped.
    """

    ok: bool
    arrays: Arrays = field(default_factory=dict)
    params_type: str = FULL
    num_examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    supplementary: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, int | str] = field(default_factory=dict)
    reports: SiteBatch | None = None
    failure: Failure | None = None
    aborted: bool = False

    @property
    def events(self) -> list[dict[str, Any]]:
        """The items of ``reports``."""
        return self.reports.items if self.reports is not None else []

    @property
    def facts(self) -> SiteFacts | None:
        """What the site says of its own work on the task."""
        return self.reports.facts if self.reports is not None else None

    @property
    def made(self) -> int:
        """How many items the task has made: more than ``events`` where not all could be kept."""
        return self.reports.made or 0 if self.reports is not None else 0


def run_task(
    task: Task, arrays: Mapping[str, Any], spec: SiteSpec, session: Session, call: Call | None = None
) -> Result:
    """Run ``train``, ``validate`` or ``evaluate`` of the app on ``arrays`` (names and shapes of ``get_model()``).

    ``call`` is the way to the app's code (None: the functions of a neutral app, in this process). Never raises but
    ``KeyboardInterrupt``: whatever the app does becomes a ``Failure``; a stop of the run becomes ``aborted``.
    """
    spec = replace(spec, task=Task(task))
    return reported(spec, session, lambda ledger: _run(spec, arrays, session, ledger, call or call_functions))


def asked_of(spec: SiteSpec, session: Session) -> Asked:
    """The task of ``spec`` as the site's policy sees it."""
    return Asked(
        where=spec.where(),
        task=spec.task.value,
        round=spec.round,
        stage=spec.stage,
        staged=session.config.job_type is JobType.DIFFUSION,
        project=spec.project_id,
        query=spec.query,
    )


def reported(spec: SiteSpec, session: Session, work: Callable[[Ledger], Result]) -> Result:
    """What ``work`` gives, with all that it has told the ledger; never raises but ``KeyboardInterrupt``, see above."""
    # Not validated here, where it could raise: an odd round is told by the first metric that has it.
    reports = SiteBatch.model_construct(task=spec.task.value, stage=spec.stage, round=spec.round)
    gate = session.gate
    began, since = datetime.now(UTC), time.monotonic()
    # What must not leave of a small cohort cannot leave before it is known how small it is.
    batcher = Batcher(None if gate.holds_back else session.publish, reports)
    egress = Egress(spec.where())
    ledger = Ledger(spec, egress, batcher)
    outcome: Result
    try:
        egress.policy = gate.egress(session.config.metrics)
        gate.admit(asked_of(spec, session), trains=spec.task is Task.TRAIN)
        session.tell_level(ledger)
        outcome = work(ledger)
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
    if gate.holds_back and not outcome.ok:
        batcher.forget_metrics()
    ledger.close()
    facts = SiteFacts.read(
        {"seconds": time.monotonic() - since, "began": began, "ended": datetime.now(UTC), "labels": outcome.labels}
    )
    return replace(outcome, reports=batcher.kept.model_copy(update={"facts": facts}))


def _run(spec: SiteSpec, arrays: Mapping[str, Any], session: Session, ledger: Ledger, call: Call) -> Result:
    made = call(spec, arrays, session, ledger)
    returned = made.values
    examples = _examples(returned, spec)
    asked = asked_of(spec, session)
    session.gate.enough(asked, session.examples(examples))
    prefix = "train_" if spec.task is Task.TRAIN and not made.measured_before else ""
    book = ledger.of(replace(spec, round=spec.round - 1, task=Task.VALIDATE)) if made.measured_before else ledger
    metrics: dict[str, float] = {}
    supplementary: dict[str, Any] = {}
    labels: dict[str, int | str] = {}
    for name, value in returned.items():
        if name == LABEL_COUNTS and spec.task is Task.TRAIN and isinstance(value, Mapping):
            labels = ledger.labels(value, session.gate.least_count, examples)
            continue
        if spec.task is Task.EVALUATE and is_supplementary(value):
            kept = book.supplementary(name, value)
            if kept is not None:
                supplementary[name] = kept
            continue
        # The result leaves the trust, too: it holds only what may leave as a metric.
        label = f"{prefix}{name}" if isinstance(name, str) else name
        if name not in BOOKKEEPING and book.metric(label, value, returned=True):
            metrics[name] = book.rounded(float(value))
    if spec.task is Task.EVALUATE and not metrics and not supplementary:
        raise AppError("evaluate() returned no value that may leave the site: its result would be empty")
    aborted = session.aborted()
    # Of a run that was stopped nothing is sent: it shall not cost anything.
    sent = {} if aborted else let_out(asked, arrays, made.arrays, session, ledger, difference=made.params_type == DIFF)
    return Result(
        ok=True,
        arrays=sent,
        params_type=made.params_type,
        num_examples=examples,
        metrics=metrics,
        supplementary=supplementary,
        labels=labels,
        aborted=aborted,
    )


def let_out(
    asked: Asked, received: Mapping[str, Any], made: Arrays, session: Session, ledger: Ledger, *, difference: bool
) -> Arrays:
    """What of the arrays ``made`` by a task may leave; what is spent with it is reported. Raises ``FlipError``."""
    released = session.gate.release(asked, received, made, difference=difference)
    if released.epsilon is not None:
        ledger.metric(EPSILON_METRIC, released.epsilon, house=True)
    return released.arrays


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
    if isinstance(error, ScriptFailed):
        return Failure(spec.slot, spec.task.value, spec.round, error.type, error.traceback, spec.stage)
    return Failure.of(
        error, slot=spec.slot, task=spec.task.value, round=spec.round, stage=spec.stage, app_dir=session.app_dir
    )
