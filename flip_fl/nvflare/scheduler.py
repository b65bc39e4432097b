"""NVFLARE's own scheduler, which also tells the hub when it cannot place a job: who is short of what, when it gives up.

A component of the FL server's parent process: no job is there yet that could tell anything.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import Job, JobMetaKey
from nvflare.app_common.job_schedulers.job_scheduler import (
    SCHEDULE_RESULT_BLOCK,
    SCHEDULE_RESULT_OK,
    DefaultJobScheduler,
)

from flip_fl.errors import FlipError
from flip_fl.nvflare.model_id import model_of
from flip_fl.reporting.session import open_reporting
from flip_fl.settings import load_server, settings_file
from flip_fl.values import SERVER_NAME, EventType

logger = logging.getLogger("flip_fl.nvflare")

CLOSE_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Attempt:
    """One attempt to place a job that failed. ``short``: what each site that is short was asked for.

    ``final``: NVFLARE does not try again.
    """

    model_id: UUID
    number: int
    of: int
    final: bool
    reason: str
    requested: Mapping[str, Any] = field(default_factory=dict)
    short: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def events(self) -> Iterator[tuple[str | None, dict[str, Any]]]:
        """Slot and details of each event: one a site that is short, one without a site when none answered."""
        facts = {"attempt": self.number, "max_attempts": self.of, "final": self.final}
        for slot, requested in self.short.items():
            yield slot, {**facts, "requested": dict(requested)}
        if not self.short:
            yield None, {**facts, "requested": dict(self.requested)}


class FlipJobScheduler(DefaultJobScheduler):
    """Schedules as NVFLARE does, with the same arguments; what cannot be placed is told at the hub.

    A job that is given up, or cannot be placed at all, is ERROR there. The hub is spoken to on a thread of its own,
    through the model's outbox: what does not arrive is sent by the next process that opens it.
    """

    def __init__(
        self,
        max_jobs: int = 1,
        max_schedule_count: int = 10,
        min_schedule_interval: float = 10.0,
        max_schedule_interval: float = 600.0,
    ) -> None:
        super().__init__(max_jobs, max_schedule_count, min_schedule_interval, max_schedule_interval)
        self._attempts: queue.SimpleQueue[tuple[Path, Attempt]] = queue.SimpleQueue()
        self._teller: threading.Thread | None = None

    def _try_job(self, job: Job, fl_ctx: FLContext) -> tuple[int, Any, str]:
        code, dispatch, reason = super()._try_job(job, fl_ctx)
        if code != SCHEDULE_RESULT_OK:
            # Whatever is wrong with telling must not keep NVFLARE from its next job.
            try:
                self._note(job, code, str(reason), fl_ctx)
            except Exception:
                logger.exception("what NVFLARE's scheduler said of job %s could not be told", job.job_id)
        return code, dispatch, reason

    def _note(self, job: Job, code: int, reason: str, fl_ctx: FLContext) -> None:
        model_id = model_of(job.meta)
        if model_id is None:
            logger.warning("job %s waits (%s) and names no model of the hub", job.job_id, reason)
            return
        number = int(job.meta.get(JobMetaKey.SCHEDULE_COUNT.value, 0)) + 1
        attempt = Attempt(
            model_id=model_id,
            number=number,
            of=self.max_schedule_count,
            final=code == SCHEDULE_RESULT_BLOCK or number >= self.max_schedule_count,
            reason=reason,
            requested=job.resource_spec or {},
            short=_short(fl_ctx),
        )
        self._attempts.put((Path(fl_ctx.get_engine().get_workspace().get_root_dir()), attempt))
        if self._teller is None or not self._teller.is_alive():
            self._teller = threading.Thread(target=self._tell_all, name="flip-waiting-jobs", daemon=True)
            self._teller.start()

    def _tell_all(self) -> None:
        while True:
            root, attempt = self._attempts.get()
            try:
                tell(root, attempt)
            except FlipError as error:
                logger.error("an attempt to place a job could not be told: FLIP-%s %s", error.code, error.what)
            except Exception:
                logger.exception("an attempt to place a job could not be told")


def tell(root: Path, attempt: Attempt) -> None:
    """Report ``attempt`` through the outbox of its model. Without a hub (in development) nothing is told.

    Raises ``FlipError`` for settings that cannot be used, and E0412 for an outbox that cannot.
    """
    settings = load_server(settings_file(SERVER_NAME, root))
    if settings is None:
        return
    reporting = open_reporting(settings, attempt.model_id, settings.state_dir or root / "state")
    try:
        for slot, details in attempt.events():
            reporting.reporter.event(EventType.JOB_WAITING_FOR_RESOURCES, client=slot, details=details)
        if attempt.final:
            reporting.lifecycle.fail(f"NVFLARE could not place the job in {attempt.number} attempts: {attempt.reason}")
            reporting.lifecycle.finish()
    finally:
        reporting.close(CLOSE_TIMEOUT_S)


def _short(fl_ctx: FLContext) -> dict[str, Mapping[str, Any]]:
    """What each site was asked for that has too little or did not answer; empty when no site answered."""
    asked: Mapping[str, Any] = fl_ctx.get_prop(FLContextKey.CLIENT_RESOURCE_SPECS) or {}
    answers: Mapping[str, Any] = fl_ctx.get_prop(FLContextKey.RESOURCE_CHECK_RESULT) or {}
    if not answers:
        return {}
    return {slot: spec or {} for slot, spec in asked.items() if not answers.get(slot, (False, ""))[0]}
