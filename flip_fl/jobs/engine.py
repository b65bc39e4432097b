"""A federation as whoever runs it sees it: its jobs, and what may be done with them. One protocol for both engines."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol
from uuid import UUID

from flip_fl.errors import FlipError
from flip_fl.jobs.decide import EngineRuns, EngineState


@dataclass(frozen=True)
class EngineJob:
    """A job as its engine lists it; ``job`` is the engine's own id.

    ``model_id`` and ``digest`` (of what was submitted) are None for a job that was not submitted by ``flip-fl``.
    ``seconds``: how long it has run.
    """

    job: str
    state: EngineState
    details: str = ""
    model_id: UUID | None = None
    digest: str | None = None
    submitted_at: datetime | None = None
    seconds: float | None = None


class FederationJobs(EngineRuns, Protocol):
    """The jobs of one federation. ``kit`` is whose kit opens the way there.

    Every method is bounded in time and raises ``FlipError``: E0545 when the server gives no answer, E0546 when it
    refuses what was asked.
    """

    @property
    def kit(self) -> Path: ...

    def sites(self) -> list[str]:
        """The slots that are connected now, by number."""
        ...

    def jobs(self) -> list[EngineJob]:
        """All that the server knows of, the newest first."""
        ...

    def submit(self, folder: Path, token: str) -> str:
        """Submit the job in ``folder``; its id. The same ``token`` again is the same job, where the engine can tell."""
        ...

    def abort(self, job: str) -> None:
        """Tell the engine to end a job. Returns when it has been told, not when the job has ended."""
        ...

    def logs(self, job: str) -> str:
        """What the job's part at the server has logged. A site's log stays at the site."""
        ...

    def close(self) -> None:
        """End what is open to the server."""
        ...


def find_job(engine: FederationJobs, wanted: str) -> EngineJob:
    """The job with this id, or else the newest of the model with this id.

    Raises ``FlipError`` E0541 when there is none, and those of ``engine``.
    """
    listed = engine.jobs()
    for job in listed:
        if job.job == wanted:
            return job
    for job in listed:
        if job.model_id is not None and str(job.model_id) == wanted.lower():
            return job
    fix = f"flip-fl job list {kit_option(engine)}"
    raise FlipError("E0541", server=engine.server, run=wanted, connection=engine.connection, fix=fix)


def kit_option(engine: FederationJobs) -> str:
    """The option of a command line that leads to the same federation."""
    return f"--kit {shlex.quote(str(engine.kit))}"
