"""Where a job's files lie in NVFLARE's workspace."""

from __future__ import annotations

import re
from pathlib import Path

from nvflare.apis.fl_context import FLContext
from nvflare.app_common.app_constant import EnvironmentKey

from flip_fl.app.model_id import read_object
from flip_fl.errors import FlipError
from flip_fl.reporting.session import OUTBOX_FOLDER
from flip_fl.settings import load_server, settings_file
from flip_fl.values import SERVER_NAME

_ENVIRONMENT = "environment.json"
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
# The job's models are removed at its end, with the folder that they lie in.
_TAKEN = frozenset({"config", "custom"})


def custom_dir(fl_ctx: FLContext) -> Path:
    """The folder of this job that holds the researcher's app."""
    return Path(fl_ctx.get_engine().get_workspace().get_app_custom_dir(fl_ctx.get_job_id()))


def checkpoint_dir(fl_ctx: FLContext) -> str | None:
    """The folder for models that the job's ``config/environment.json`` names (APP_CKPT_DIR); None without one.

    Raises ``FlipError`` E0303 for anything but a plain name of a folder of its own.
    """
    folder = Path(fl_ctx.get_engine().get_workspace().get_app_config_dir(fl_ctx.get_job_id()))
    named = read_object(folder / _ENVIRONMENT).get(EnvironmentKey.CHECKPOINT_DIR)
    if named in (None, ""):
        return None
    if not isinstance(named, str) or not _PLAIN.fullmatch(named) or named in _TAKEN:
        raise FlipError(
            "E0303",
            where=_ENVIRONMENT,
            key=EnvironmentKey.CHECKPOINT_DIR,
            value=repr(named),
            expected="the plain name of a folder inside the app",
            fix='write "model"',
        )
    return named


def runs_folder(root: Path) -> Path | None:
    """Where outboxes of the server's runs lie; None without a hub, or with settings that every run complains of."""
    try:
        settings = load_server(settings_file(SERVER_NAME, root))
    except FlipError:
        return None
    return None if settings is None else (settings.state_dir or root / "state") / OUTBOX_FOLDER
