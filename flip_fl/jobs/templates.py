"""What every engine's job is made from: where its template lies, and the facts that fill it. Needs no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from uuid import UUID

from flip_fl.app.config import AppConfig


@dataclass(frozen=True)
class JobValues:
    """What a standard job needs to know beyond the app's code. ``slots``: its participants (empty: all that come)."""

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

    @classmethod
    def of(cls, config: AppConfig, slots: tuple[str, ...], model_id: UUID, project_id: str = "") -> JobValues:
        """The values of ``config`` for a run at ``slots``; without MIN_CLIENTS all of them are needed."""
        return cls(
            model_id=model_id,
            num_rounds=config.global_rounds,
            min_clients=config.min_clients or len(slots),
            slots=slots,
            ignore_result_error=config.ignore_result_error,
            best_model_metric=config.best_model_metric or "",
            best_model_minimize=config.best_model_metric_minimize,
            aggregation_weights=config.aggregation_weights,
            local_rounds=config.local_rounds,
            project_id=project_id,
            query=config.query,
        )


def template_dir(engine: str, job_type: str) -> Path:
    """Where a template lies: in the installed package, or beside it in a checkout."""
    installed = Path(str(files("flip_fl") / "_job_templates"))
    root = installed if installed.is_dir() else Path(__file__).resolve().parents[2] / "job_templates"
    return root / engine / job_type
