"""What every engine's job is made from: where its template lies, and the facts that fill it. Needs no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any
from uuid import UUID

from flip_fl.app.config import AppConfig
from flip_fl.app.packages import Scalar, declared_config, is_package
from flip_fl.app.plan import rounds_of, total_rounds
from flip_fl.values import JobType

_ROUNDS = "num-server-rounds"
_BEST_METRIC = "best-model-metric"
_BEST_MINIMIZE = "best-model-metric-minimize"


@dataclass(frozen=True)
class JobValues:
    """What a job needs to know beyond the app's code. ``slots``: its participants (empty: all that come).

    ``stages`` (name → rounds) only where the job has several; ``num_rounds`` are the rounds of all of them.
    """

    model_id: UUID
    num_rounds: int
    min_clients: int
    slots: tuple[str, ...] = ()
    ignore_result_error: bool = False
    best_model_metric: str = ""
    best_model_minimize: bool = False
    aggregation_weights: Mapping[str, float] | None = None
    local_rounds: int = 1
    project_id: str = ""
    query: str = ""
    stages: Mapping[str, int] | None = None
    server_optimizer: str | Mapping[str, Any] | None = None
    cross_site_validation: bool = False
    # How long the server waits for the sites, and for the replies to a task; None: as the template says.
    start_timeout_s: int | None = None
    task_timeout_s: int | None = None
    # What a Flower package declares of its own, flat.
    run_config: Mapping[str, Scalar] = field(default_factory=dict)

    @classmethod
    def of(
        cls, config: AppConfig, slots: tuple[str, ...], model_id: UUID, project_id: str = "", **waits: int
    ) -> JobValues:
        """The values of ``config`` for a run at ``slots``; without MIN_CLIENTS all of them are needed.

        ``waits``: ``start_timeout_s`` and ``task_timeout_s``.
        """
        stages = rounds_of(config)
        declared = package_config(config)
        return cls(
            model_id=model_id,
            num_rounds=_rounds(config, declared),
            min_clients=config.min_clients or len(slots),
            slots=slots,
            ignore_result_error=config.ignore_result_error,
            best_model_metric=config.best_model_metric or str(declared.get(_BEST_METRIC, "")),
            best_model_minimize=config.best_model_metric_minimize or declared.get(_BEST_MINIMIZE) is True,
            aggregation_weights=config.aggregation_weights,
            local_rounds=config.local_rounds,
            project_id=project_id,
            query=config.query,
            stages=stages if len(stages) > 1 else None,
            server_optimizer=_plain(config.server_optimizer),
            cross_site_validation=config.cross_site_validation,
            run_config=declared,
            **waits,
        )


def package_config(config: AppConfig) -> dict[str, Scalar]:
    """The run config that the ClientApp of a Flower package reads: what it declares, else FLIP's values.

    ``config.json`` goes first where it says the same: LOCAL_ROUNDS, LEARNING_RATE. Empty for any other app.
    """
    if not is_package(config.app_dir):
        return {}
    said: dict[str, Scalar] = {}
    if "LOCAL_ROUNDS" in config.raw:
        said["local-epochs"] = config.local_rounds
    if config.learning_rate is not None:
        said["learning-rate"] = config.learning_rate
    return {**declared_config(config.app_dir), **said}


def _rounds(config: AppConfig, declared: Mapping[str, Scalar]) -> int:
    told = declared.get(_ROUNDS)
    if "GLOBAL_ROUNDS" in config.raw or isinstance(told, bool) or not isinstance(told, int) or told < 1:
        return total_rounds(config)
    return told if config.job_type is not JobType.EVALUATION else total_rounds(config)


def _plain(value: str | Mapping[str, Any] | None) -> str | dict[str, Any] | None:
    return dict(value) if isinstance(value, Mapping) else value


def template_dir(engine: str, job_type: str) -> Path:
    """Where a template lies: in the installed package, or beside it in a checkout."""
    installed = Path(str(files("flip_fl") / "_job_templates"))
    root = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "job_templates"
    return root / engine / job_type
