"""Where a job's files lie in NVFLARE's workspace."""

from __future__ import annotations

from pathlib import Path

from nvflare.apis.fl_context import FLContext


def custom_dir(fl_ctx: FLContext) -> Path:
    """The folder of this job that holds the researcher's app."""
    return Path(fl_ctx.get_engine().get_workspace().get_app_custom_dir(fl_ctx.get_job_id()))
