"""What a run on Flower is told: its keywords, else the run config, else the app's config.json."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.app.checks import check_models
from flip_fl.app.config import AppConfig, load_config
from flip_fl.app.forms import form_of
from flip_fl.app.model_id import first_model_id
from flip_fl.app.plan import Stage, rounds_of, stages_in
from flip_fl.app.rules import MAX_ROUNDS, MAX_SITES
from flip_fl.app.secure import secure_problems
from flip_fl.errors import FlipError
from flip_fl.values import JobType, natural_key

MODEL_ID = "flip-model-id"
PROJECT_ID = "flip-project-id"
QUERY = "flip-cohort-query"
MIN_CLIENTS = "flip-min-clients"
JOB_DIR = "flip-job-dir"
SLOTS = "flip-slots"
START_TIMEOUT = "flip-start-timeout-s"
PHASE_TIMEOUT = "flip-phase-timeout-s"
NUM_ROUNDS = "num-server-rounds"
BEST_METRIC = "best-model-metric"
BEST_MINIMIZE = "best-model-metric-minimize"


@dataclass(frozen=True)
class RunFacts:
    """A run's settings, checked. ``slots`` empty: whoever the grid has (see ``Roster``); ``min_clients`` 0: all."""

    app_dir: Path
    app: AppConfig
    num_rounds: int
    stages: tuple[Stage, ...]
    slots: tuple[str, ...]
    min_clients: int
    ignore_result_error: bool
    best_metric: str
    best_minimize: bool
    start_timeout_s: float
    phase_timeout_s: float


@dataclass(frozen=True)
class Given:
    """What the caller of ``run`` said by keyword; None: look it up."""

    app_dir: Path | None = None
    num_rounds: int | None = None
    slots: Sequence[str] | None = None
    min_clients: int | None = None
    ignore_result_error: bool | None = None


def read_facts(given: Given, run_config: Mapping[str, Any]) -> RunFacts:
    """The run's settings. Raises ``FlipError``: E0303 for a value that is out of range, E0522
    without the app's folder, and what ``load_config`` raises.
    """
    app_dir = find_app(given.app_dir, run_config)
    if app_dir is None:
        raise FlipError("E0522")
    app = load_config(app_dir)
    check_models(app)
    for problem in secure_problems(form_of(app_dir), app):
        raise problem
    whole = _whole(run_config)
    rounds = whole(NUM_ROUNDS, 0, MAX_ROUNDS) if given.num_rounds is None else given.num_rounds
    quorum = whole(MIN_CLIENTS, 0, MAX_SITES) if given.min_clients is None else given.min_clients
    named = names_in(run_config.get(SLOTS, "")) if given.slots is None else given.slots
    ignore = app.ignore_result_error if given.ignore_result_error is None else given.ignore_result_error
    planned = rounds_of(app)
    if app.job_type is JobType.EVALUATION:
        rounds = 0  # one for each model
    if rounds and rounds != sum(planned.values()) and len(planned) > 1:
        raise FlipError(
            "E0303",
            where="the run config",
            key=NUM_ROUNDS,
            value=str(rounds),
            expected=f"0, or {sum(planned.values())}: the rounds of both stages",
            fix="set GLOBAL_ROUNDS_AE and GLOBAL_ROUNDS_DM in config.json",
        )
    stages = stages_in(planned if len(planned) > 1 or not rounds else {"": rounds})
    return RunFacts(
        app_dir=app_dir,
        app=app,
        num_rounds=stages[-1].last,
        stages=stages,
        slots=tuple(sorted(named, key=natural_key)),
        min_clients=quorum or app.min_clients or 0,
        ignore_result_error=ignore,
        best_metric=str(run_config.get(BEST_METRIC) or app.best_model_metric or ""),
        best_minimize=bool(run_config.get(BEST_MINIMIZE) or app.best_model_metric_minimize),
        start_timeout_s=float(whole(START_TIMEOUT, 1, 7 * 86_400, 600)),
        phase_timeout_s=float(whole(PHASE_TIMEOUT, 1, 7 * 86_400, 86_400)),
    )


def find_app(given: Path | None, run_config: Mapping[str, Any]) -> Path | None:
    """The app's folder: ``given``, else flip-job-dir."""
    return given or (Path(str(run_config[JOB_DIR])) if run_config.get(JOB_DIR) else None)


def find_model_id(given: str | UUID | None, app_dir: Path | None, run_config: Mapping[str, Any]) -> UUID:
    """Which model the run reports on. Raises ``FlipError`` E0501 naming every place that was looked at."""
    folder = find_app(app_dir, run_config) or Path()
    further = {f"{MODEL_ID} in the run config": run_config.get(MODEL_ID)}
    return first_model_id("" if given is None else str(given), folder, further)


def _whole(run_config: Mapping[str, Any]) -> Callable[..., int]:
    def read(key: str, low: int, high: int, default: int = 0) -> int:
        value = run_config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise FlipError(
                "E0303",
                where="the run config",
                key=key,
                value=repr(value),
                expected=f"a whole number from {low} to {high}",
                fix=f"flwr run … -c '{key}={default or low}'",
            )
        return value

    return read


def names_in(text: object) -> tuple[str, ...]:
    """The names in ``Trust_1,Trust_2``."""
    return tuple(name.strip() for name in str(text).split(",") if name.strip())
