"""Starting a job's process without the app's folder on its path: nothing of the researcher's is imported there.

NVFLARE appends ``custom/`` to the path of the process that holds the site's key (the server's likewise). A file called
``sitecustomize.py``, or like any package that a library would only use if it were there, would run in it before
anything could look at it. Our components need no such path: the app has a process of its own.
"""

from __future__ import annotations

import os
import shlex
import sys

from nvflare.apis.fl_constant import FLContextKey, SystemVarName
from nvflare.apis.fl_context import FLContext
from nvflare.apis.job_launcher_spec import JobHandleSpec
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.process_launcher import ProcessHandle, ProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher
from nvflare.utils.job_launcher_utils import get_credential_env
from nvflare.utils.process_utils import spawn_process


class _OwnPath(ProcessJobLauncher):
    """As NVFLARE's, with the path of the process that starts the job, and no more."""

    def launch_job(self, job_meta: dict[str, object], fl_ctx: FLContext) -> JobHandleSpec:
        environment = os.environ.copy()
        environment[SystemVarName.PYTHONPATH] = os.pathsep.join(sys.path)
        environment.update(get_credential_env(fl_ctx.get_prop(FLContextKey.JOB_PROCESS_ARGS) or {}))
        command = shlex.split(self.get_command(job_meta, fl_ctx), True)
        return ProcessHandle(process_adapter=spawn_process(command, environment))


class SiteLauncher(_OwnPath, ClientProcessJobLauncher):
    """A site's jobs."""


class ServerLauncher(_OwnPath, ServerProcessJobLauncher):
    """The server's part of a job."""
