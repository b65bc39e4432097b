"""Ending a job as a person: the hub hears of it first, so that the truth is what sticks, and then the engine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from flip_fl.errors import FlipError
from flip_fl.jobs.decide import EngineState
from flip_fl.jobs.engine import EngineJob, FederationJobs
from flip_fl.jobs.hub_model import HubAway, HubModel
from flip_fl.settings import ServerSettings
from flip_fl.values import ModelStatus
from flip_fl.wire import StatusItem

TIMEOUT_S = 60.0
POLL_S = 1.0


@dataclass(frozen=True)
class Aborted:
    """What became of the job. ``hub_told``: the hub took STOPPED, or had an end already; ``why_not``: why it did not.

    ``state``: the engine's last word of the job within the time-out.
    """

    job: str
    model_id: UUID | None
    state: EngineState
    hub_told: bool
    why_not: str | None = None
    already: bool = False


def abort(
    engine: FederationJobs,
    job: EngineJob,
    settings: ServerSettings | None,
    reason: str,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Aborted:
    """Write STOPPED with ``reason`` to the hub, tell the engine, and wait until it says that the job has ended.

    A hub that is away, or no ``settings``, keep no job alive. A job that has ended is left as it is. Raises what
    ``engine`` raises.
    """
    if job.state.is_final:
        return Aborted(job.job, job.model_id, job.state, hub_told=False, already=True)
    why_not = _tell_hub(settings, job.model_id, reason)
    engine.abort(job.job)
    deadline = time.monotonic() + timeout_s
    state = engine.look(job.job).state
    while not state.is_final and time.monotonic() < deadline:
        time.sleep(POLL_S)
        state = engine.look(job.job).state
    return Aborted(job.job, job.model_id, state, hub_told=why_not is None, why_not=why_not)


def _tell_hub(settings: ServerSettings | None, model_id: UUID | None, reason: str) -> str | None:
    """None when the hub knows the end; else why it does not."""
    if model_id is None:
        return "the job does not say which model it reports on"
    if settings is None:
        return "no settings of the FL server were found"
    hub = HubModel(settings, model_id)
    try:
        hub.write(StatusItem(at=datetime.now(UTC), status=ModelStatus.STOPPED, reason=reason))
    except HubAway as away:
        return str(away)
    except FlipError as error:
        return error.what
    finally:
        hub.close()
    return None
