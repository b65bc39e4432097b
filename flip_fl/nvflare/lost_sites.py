"""Sites that lose their part of a running job: NVFLARE's server knows which, and the job's process, which reports, not.

A job's process is aborted when a site's process of the job has died, and is not told whose. A site that is started
anew is another client to NVFLARE, so that the job waits for the former one for ever. A component of the FL server's
parent process (``local/resources.json`` of its kit).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, RunProcessKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobReturnCode
from nvflare.fuel.f3.message import Message
from nvflare.private.defs import CellChannel, CellChannelTopic, CellMessageHeaderKeys, JobFailureMsgKey
from nvflare.widgets.widget import Widget

from flip_fl.errors import FlipError
from flip_fl.nvflare.model_id import model_of
from flip_fl.nvflare.places import runs_folder
from flip_fl.reporting.outbox import LOST, Outbox

logger = logging.getLogger("flip_fl.nvflare")

STARTED_ANEW = "{slot} was started anew in the middle of the run"
PROCESS_LOST = "the process of the job at {slot} was lost"


class LostSites(Widget):
    """Tells the job, and leaves the site's name where the job's process finds it when it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self._server: Any = None
        self._runs: Path | None = None
        self._told: set[tuple[str, str]] = set()

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self._server = fl_ctx.get_prop(FLContextKey.SITE_OBJ)
            self._runs = runs_folder(Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir()))
            self._server.cell.core_cell.add_incoming_request_filter(
                CellChannel.SERVER_MAIN, CellChannelTopic.REPORT_JOB_FAILURE, self._reported
            )
        elif event_type == EventType.CLIENT_REGISTER_PROCESSED and self._server is not None:
            # Whoever registers waits for an answer.
            threading.Thread(target=self._look, name="flip-lost-sites", daemon=True).start()

    def _reported(self, message: Message) -> None:
        """A site says how its process of a job has ended; NVFLARE judges that afterwards."""
        try:
            client = self._server.client_manager.clients.get(message.get_header(CellMessageHeaderKeys.TOKEN))
            told = message.payload
            if client is None or told[JobFailureMsgKey.CODE] not in (
                JobReturnCode.ABORTED,
                JobReturnCode.EXCEPTION,
                JobReturnCode.INFRASTRUCTURE_ERROR,
            ):
                return
            self._leave(str(told[JobFailureMsgKey.JOB_ID]), PROCESS_LOST.format(slot=client.name))
        except Exception:
            # It would be NVFLARE's reason to drop the report.
            logger.exception("the end of a site's process could not be noted")

    def _look(self) -> None:
        """Tell each running job which of its sites are there under another token than the job has of them."""
        try:
            clients = self._server.client_manager
            for job_id, running in list(self._server.engine.run_processes.items()):
                for token, client in list((running.get(RunProcessKey.PARTICIPANTS) or {}).items()):
                    anew = token not in clients.clients and client.name in clients.name_to_clients
                    if anew and (job_id, token) not in self._told:
                        self._told.add((job_id, token))
                        words = STARTED_ANEW.format(slot=client.name)
                        self._leave(job_id, words)
                        self._server.engine.notify_dead_job(job_id, client.name, words)
        except Exception:
            logger.exception("jobs could not be told of a site that was started anew")

    def _leave(self, job_id: str, words: str) -> None:
        logger.warning("job %s: %s", job_id, words)
        if self._runs is None:
            return
        with self._server.engine.new_context() as fl_ctx:
            job = self._server.engine.get_component(SystemComponents.JOB_MANAGER).get_job(job_id, fl_ctx)
        path = self._runs / f"{model_of(job.meta) if job is not None else None}.sqlite"
        if not path.exists():
            return
        try:
            outbox = Outbox(path)
        except FlipError as error:
            logger.warning("it could not be told: %s", error.what)
            return
        try:
            outbox.note(**{LOST: words})
        finally:
            outbox.close()
