"""What NVFLARE's server leaves when it is killed with jobs running, put in order at its next start.

NVFLARE keeps such jobs as running for ever: they can be neither aborted nor deleted, and nobody tells the hub. A
component of the FL server's parent process (``local/resources.json`` of its kit).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from uuid import UUID

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, SystemComponents
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_def import RunStatus
from nvflare.widgets.widget import Widget

from flip_fl.errors import FlipError
from flip_fl.jobs.hub_model import HubAway, HubModel
from flip_fl.jobs.lost_runs import STARTED_ANEW, end_lost_run, end_lost_runs
from flip_fl.nvflare.model_id import model_of
from flip_fl.reporting.session import OUTBOX_FOLDER
from flip_fl.settings import ServerSettings, load_server, settings_file
from flip_fl.values import SERVER_NAME

logger = logging.getLogger("flip_fl.nvflare")


class FreshStart(Widget):
    """Before the server takes jobs, those that an earlier one was running are over, at NVFLARE and at the hub."""

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        if event_type != EventType.SYSTEM_BOOTSTRAP:
            return
        try:
            models = self._abandon(fl_ctx)
            root = Path(fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT).get_root_dir())
            threading.Thread(target=_tell_hub, args=(root, models), name="flip-lost-runs", daemon=True).start()
        except Exception:
            # NVFLARE swallows what a handler raises.
            logger.exception("jobs of an earlier server could not be put in order")

    def _abandon(self, fl_ctx: FLContext) -> list[UUID]:
        models = []
        jobs = fl_ctx.get_engine().get_component(SystemComponents.JOB_MANAGER)
        for job in jobs.get_jobs_by_status([RunStatus.RUNNING, RunStatus.DISPATCHED], fl_ctx):
            jobs.set_status(job.job_id, RunStatus.ABANDONED, fl_ctx)
            model_id = model_of(job.meta)
            logger.warning("job %s (model %s) was going on when the server was lost", job.job_id, model_id)
            if model_id is not None:
                models.append(model_id)
        return models


def _tell_hub(root: Path, models: list[UUID]) -> None:
    """``models``: those of the jobs that were going on."""
    try:
        settings = load_server(settings_file(SERVER_NAME, root))
    except FlipError:
        # Every run complains of them itself.
        return
    if settings is None:
        return
    state = settings.state_dir or root / "state"
    # Of these nothing is here: they had not begun to report, or the hub has had their last word.
    silent = [model_id for model_id in models if not (state / OUTBOX_FOLDER / f"{model_id}.sqlite").exists()]
    end_lost_runs(state, settings, STARTED_ANEW, models=models, stop=threading.Event())
    for model_id in silent:
        _end_silent(model_id, settings, state)


def _end_silent(model_id: UUID, settings: ServerSettings, state: Path) -> None:
    hub = HubModel(settings, model_id)
    try:
        if not hub.state().status.is_terminal:
            end_lost_run(model_id, settings, state, STARTED_ANEW)
    except (FlipError, HubAway) as error:
        logger.error("how model %s stands at the hub is not known, nothing was told: %s", model_id, error)
    finally:
        hub.close()
