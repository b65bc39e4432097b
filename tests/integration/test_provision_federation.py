"""The kits at work: a server and sites as processes of their own, mutual TLS, a job from submission to its end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flip_fl.provision.nvflare import ADMIN_NAME
from tests.support.cli import environment, flip_fl

JOB = {
    "meta.json": {"name": "job", "resource_spec": {}, "min_clients": 2, "deploy_map": {"app": ["@ALL"]}},
    "app/config/config_fed_server.json": {
        "format_version": 2,
        "server": {"task_request_interval": 0.5},
        "workflows": [
            {
                "id": "controller",
                "path": "nvflare.app_common.workflows.scatter_and_gather.ScatterAndGather",
                "args": {
                    "min_clients": 2,
                    "num_rounds": 1,
                    "wait_time_after_min_received": 0,
                    "persistor_id": "persistor",
                },
            }
        ],
        "components": [
            {"id": "persistor", "path": "nvflare.app_common.np.np_model_persistor.NPModelPersistor", "args": {}},
            {
                "id": "shareable_generator",
                "path": "nvflare.app_common.shareablegenerators.full_model_shareable_generator."
                "FullModelShareableGenerator",
                "args": {},
            },
            {
                "id": "aggregator",
                "path": "nvflare.app_common.aggregators.intime_accumulate_model_aggregator."
                "InTimeAccumulateWeightedAggregator",
                "args": {"expected_data_kind": "WEIGHTS"},
            },
        ],
    },
    "app/config/config_fed_client.json": {
        "format_version": 2,
        "executors": [
            {
                "tasks": ["train"],
                "executor": {"path": "nvflare.app_common.np.np_trainer.NPTrainer", "args": {"sleep_time": 0}},
            }
        ],
        "components": [],
        "task_result_filters": [],
        "task_data_filters": [],
    },
}

# A session that is not closed keeps its interpreter alive: it gets one of its own.
ADMIN = """
import json, sys, time
from nvflare.fuel.flare_api.flare_api import new_secure_session
user, kit, job, sites = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
session = new_secure_session(user, kit, timeout=60)
try:
    end = time.monotonic() + 60
    while len(names := sorted(c.name for c in session.get_system_info().client_info)) < sites:
        assert time.monotonic() < end, names
        time.sleep(0.5)
    job_id = session.submit_job(job)
    end = time.monotonic() + 120
    while not (status := session.get_job_meta(job_id)["status"]).startswith("FINISHED"):
        assert time.monotonic() < end, status
        time.sleep(0.5)
    print(json.dumps({"names": names, "job": job_id, "status": status}), file=sys.stderr)
finally:
    session.close()
"""


@contextlib.contextmanager
def started(kit: Path) -> Iterator[Path]:
    """The kit's own start script in a process group of its own; its log. Ends the group on leaving."""
    log = kit.parent / f"{kit.name}.log"
    env = environment()
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(kit / "startup/sub_start.sh"), "--once"],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(20)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.mark.slow
def test_kits_of_the_first_day_and_added_ones_run_a_job_together(tmp_path: Path) -> None:
    """Protects the promise of a kit: unpacked and started, its holder is in the federation under its own name."""
    (tmp_path / "federation.yaml").write_text(
        "net: at-work\nengine: nvflare\n"
        f"server: {{host: localhost, port: {free_port()}, other_hosts: [127.0.0.1]}}\nslots: 1\n",
        encoding="utf-8",
    )
    assert flip_fl("provision", "federation.yaml", cwd=tmp_path).exit_code == 0
    assert flip_fl("provision", "--add", "1", cwd=tmp_path).exit_code == 0
    kits = tmp_path / "kits"
    for name, document in JOB.items():
        (tmp_path / "job" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "job" / name).write_text(json.dumps(document), encoding="utf-8")
    with started(kits / "server") as server, started(kits / "Trust_1"), started(kits / "Trust_2"):
        done = subprocess.run(
            [sys.executable, "-c", ADMIN, ADMIN_NAME, str(kits / "admin"), str(tmp_path / "job"), "2"],
            env=environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
    assert done.returncode == 0, f"{done.stderr}\n{server.read_text(encoding='utf-8')[-4000:]}"
    told = json.loads(done.stderr.splitlines()[-1])
    assert (told["names"], told["status"]) == (["Trust_1", "Trust_2"], "FINISHED:COMPLETED")
    # In the server's own kit, so that two servers on one machine never see each other's jobs.
    assert (kits / "server/state/jobs" / told["job"] / "meta").is_file()
    for name in ("server", "Trust_1", "Trust_2"):
        assert flip_fl("kit", "verify", f"kits/{name}", cwd=tmp_path).exit_code == 0, name
