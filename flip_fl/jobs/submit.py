"""Submitting an app to a federation: once, however often it is asked for, and never beside a live job of its model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

from flip_fl.app.config import AppConfig
from flip_fl.app.travel import digests
from flip_fl.errors import FlipError
from flip_fl.jobs.engine import EngineJob, FederationJobs, kit_option
from flip_fl.jobs.hub_model import HubAway, HubModel
from flip_fl.jobs.templates import JobValues
from flip_fl.settings import ServerSettings
from flip_fl.values import ModelStatus
from flip_fl.wire import StatusItem

DIGEST_CHARS = 16


@dataclass(frozen=True)
class Submitted:
    """The engine's id of the job; ``already``: the very same one was there and has not ended."""

    job: str
    digest: str
    already: bool


# Writes the job's folder: (its values, its digest, where to) -> the folder.
Writer = Callable[[JobValues, str, Path], Path]


def submit(
    engine: FederationJobs,
    config: AppConfig,
    slots: Sequence[str],
    model_id: UUID,
    project_id: str,
    write: Writer,
    queue: Callable[[], None] | None = None,
) -> Submitted:
    """Submit the app of ``config`` for a run of ``model_id`` at ``slots``; ``queue`` is called right before.

    Raises ``FlipError`` E0544 when another job of the model has not ended, and those of ``write``, ``queue`` and
    ``engine``.
    """
    values = JobValues.of(config, tuple(slots), model_id, project_id)
    digest = digest_of(config, values)
    earlier = [job for job in engine.jobs() if job.model_id == model_id]
    live = next((job for job in earlier if not job.state.is_final), None)
    if live is not None:
        return _there(live, digest, engine, model_id)
    with tempfile.TemporaryDirectory(prefix="flip-job-") as room:
        folder = write(values, digest, Path(room))
        if queue is not None:
            queue()
        # A repeat after a lost answer is the same job; one after its end is a new one.
        return Submitted(engine.submit(folder, f"{model_id}.{digest}.{len(earlier)}"), digest, already=False)


def queue_again(settings: ServerSettings, model_id: UUID) -> None:
    """Make a model whose last run has ended pending at the hub: whoever watches must not take that end for the new one.

    Raises ``FlipError`` E0403 when the hub gives no answer, and those of ``HubModel``.
    """
    hub = HubModel(settings, model_id)
    try:
        if hub.state().status.is_terminal:
            hub.write(StatusItem(at=datetime.now(UTC), status=ModelStatus.PENDING))
    except HubAway as away:
        raise FlipError("E0403", url=hub.address, problem=away, safe="nothing was submitted") from None
    finally:
        hub.close()


def digest_of(config: AppConfig, values: JobValues) -> str:
    """What makes two jobs of a model the same: code, config, participants and cohort."""
    facts = [digests(config.app_dir), json.loads(config.for_run(values.model_id)), values.slots, values.project_id]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS]


def _there(live: EngineJob, digest: str, engine: FederationJobs, model_id: UUID) -> Submitted:
    if live.digest == digest:
        return Submitted(live.job, digest, already=True)
    raise FlipError("E0544", model=model_id, job=live.job, state=live.state.value, option=kit_option(engine))
