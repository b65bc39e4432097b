"""A job's process at a site, and at the server, begins without the app's folder on its path."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.job_launcher.client_process_launcher import ClientProcessJobLauncher
from nvflare.app_common.job_launcher.server_process_launcher import ServerProcessJobLauncher

from flip_fl.nvflare.launcher import ServerLauncher, SiteLauncher


def path_of(kind: type[Any], custom: Path, out: Path) -> list[str]:
    """The path of a process that the launcher starts for a job whose app lies in ``custom``."""

    class Launcher(kind):  # type: ignore[misc]
        def get_command(self, job_meta: dict[str, object], fl_ctx: FLContext) -> str:
            return f"{sys.executable} -c \"import json, sys; open('{out}', 'w').write(json.dumps(sys.path))\""

    context = FLContext()
    workspace = SimpleNamespace(get_app_custom_dir=lambda job_id: str(custom))
    context.set_prop(FLContextKey.WORKSPACE_OBJECT, workspace, private=True, sticky=False)
    context.set_prop(FLContextKey.JOB_PROCESS_ARGS, {}, private=True, sticky=False)
    Launcher().launch_job({"job_id": "a-job"}, context).wait()
    deadline = time.monotonic() + 60
    while not (out.exists() and out.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    found: list[str] = json.loads(out.read_text())
    return found


@pytest.mark.parametrize(
    ("ours", "nvflares"), [(SiteLauncher, ClientProcessJobLauncher), (ServerLauncher, ServerProcessJobLauncher)]
)
def test_the_process_with_the_key_does_not_have_the_app_on_its_path(
    ours: type[Any], nvflares: type[Any], tmp_path: Path
) -> None:
    """A file that is called like something that Python, or a library, would import would run beside the key.

    NVFLARE's own launcher puts the app there, so that this test can fail.
    """
    custom = tmp_path / "custom"
    custom.mkdir()
    assert str(custom) in path_of(nvflares, custom, tmp_path / "theirs")
    found = path_of(ours, custom, tmp_path / "ours")
    assert str(custom) not in found
    assert str(Path(__file__).resolve().parents[2]) in found
