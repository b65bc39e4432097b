"""The kits at work: a server and sites as processes of their own, mutual TLS, a job from submission to its end."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from flip_fl.provision.nvflare import ADMIN_NAME
from flip_fl.values import ModelStatus
from tests.support.cli import environment, flip_fl
from tests.support.federation import federation
from tests.support.ports import later_port
from tests.support.provision import fill_in
from tests.support.runs import wait_for
from tests.support.small_apps import write_app

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
            [str(kit / "startup/sub_start.sh")],
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


def provision(folder: Path) -> Path:
    """Kits of a server and two sites, the second one added later."""
    (folder / "federation.yaml").write_text(
        "net: at-work\nengine: nvflare\n"
        f"server: {{host: localhost, port: {later_port()}, other_hosts: [127.0.0.1]}}\nslots: 1\n",
        encoding="utf-8",
    )
    assert flip_fl("provision", "federation.yaml", cwd=folder).exit_code == 0
    assert flip_fl("provision", "--add", "1", cwd=folder).exit_code == 0
    fill_in(folder / "kits")
    return folder / "kits"


def write_job(folder: Path, **meta: Any) -> Path:
    for name, document in JOB.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        given = {**document, **meta} if name == "meta.json" else document
        (folder / name).write_text(json.dumps(given), encoding="utf-8")
    return folder


def submit(kits: Path, job: Path) -> subprocess.CompletedProcess[str]:
    """Submit a job as the admin and wait for its end; the last line of stderr is what became of it, as JSON."""
    return subprocess.run(
        [sys.executable, "-c", ADMIN, ADMIN_NAME, str(kits / "admin"), str(job), "2"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.slow
def test_kits_of_the_first_day_and_added_ones_run_a_job_together(tmp_path: Path) -> None:
    """Protects the promise of a kit: unpacked and started, its holder is in the federation under its own name."""
    kits = provision(tmp_path)
    job = write_job(tmp_path / "job")
    with started(kits / "server") as server, started(kits / "Trust_1"), started(kits / "Trust_2"):
        done = submit(kits, job)
        host = f"localhost:{json.loads((kits / 'Trust_1/kit.json').read_text(encoding='utf-8'))['port']}"
        wait_for(lambda: f"\nconnected to {host} since " in _script(kits / "Trust_1", "status.sh").stderr, "told", 30)
    assert done.returncode == 0, f"{done.stderr}\n{server.read_text(encoding='utf-8')[-4000:]}"
    told = json.loads(done.stderr.splitlines()[-1])
    assert (told["names"], told["status"]) == (["Trust_1", "Trust_2"], "FINISHED:COMPLETED")
    # In the server's own kit, so that two servers on one machine never see each other's jobs.
    assert (kits / "server/state/jobs" / told["job"] / "meta").is_file()
    for name in ("server", "Trust_1", "Trust_2"):
        assert flip_fl("kit", "verify", f"kits/{name}", cwd=tmp_path).exit_code == 0, name


@pytest.mark.slow
def test_a_job_with_another_executor_does_not_leave_a_sites_policy(tmp_path: Path) -> None:
    """NVFLARE's own trainer knows no policy: under one its result stays at the site, which says why."""
    kits = provision(tmp_path)
    job = write_job(tmp_path / "job")
    (kits / "Trust_1" / "local" / "policy.toml").write_text("[egress]\n", encoding="utf-8")
    with started(kits / "server"), started(kits / "Trust_1") as site, started(kits / "Trust_2"):
        done = submit(kits, job)
    assert '"status": "FINISHED:COMPLETED"' not in done.stderr
    told = site.read_text(encoding="utf-8") + (kits / "Trust_1" / "log.txt").read_text(encoding="utf-8")
    told += "".join(each.read_text(encoding="utf-8") for each in (kits / "Trust_1").glob("*/log.txt"))
    assert "it was not made by flip_fl's executor" in told


@pytest.mark.slow
def test_a_job_that_cannot_be_placed_is_told_attempt_by_attempt_and_ends_error(tmp_path: Path) -> None:
    """A job that wants GPUs which one site has not: an event a short site and attempt, ERROR after the last one."""
    kits = provision(tmp_path)
    app = write_app(tmp_path / "app")
    with federation(tmp_path, app) as around:
        resources = json.loads((kits / "server/local/resources.json").read_text(encoding="utf-8"))
        (scheduler,) = [each for each in resources["components"] if each["id"] == "job_scheduler"]
        scheduler["args"] |= {"max_schedule_count": 2, "min_schedule_interval": 0.5}
        (kits / "server/local/resources.json").write_text(json.dumps(resources), encoding="utf-8")
        shutil.copyfile(around.settings / "server.env", kits / "server/local/flip.env")
        wanted = {"num_of_gpus": 4, "mem_per_gpu_in_GiB": 1}
        job = write_job(tmp_path / "job", name=str(around.hub.model_id), resource_spec={"Trust_1": wanted})
        with started(kits / "server") as server, started(kits / "Trust_1"), started(kits / "Trust_2"):
            done = submit(kits, job)
            assert done.returncode == 0, f"{done.stderr}\n{server.read_text(encoding='utf-8')[-4000:]}"
            wait_for(lambda: around.hub.story().status.is_terminal, "the hub's final status")
        story = around.hub.story()
    assert json.loads(done.stderr.splitlines()[-1])["status"] == "FINISHED:CAN_NOT_SCHEDULE"
    assert story.status is ModelStatus.ERROR
    assert "could not place the job in 2 attempts" in str(story.reason)
    waiting = [entry.text for entry in story.feed if "Waiting for resources" in entry.text]
    assert len(waiting) == 2
    for number, text in enumerate(waiting, 1):
        assert f"at SIM1, attempt {number} of 2" in text
        assert '"num_of_gpus": 4' in text
    assert [text.endswith("this was the last attempt") for text in waiting] == [False, True]


# Who is connected, as the administrator sees it.
CONNECTED = """
import json, os, sys
from nvflare.fuel.flare_api.flare_api import new_secure_session
session = new_secure_session(sys.argv[1], sys.argv[2], timeout=60)
print(json.dumps(sorted(each.name for each in session.get_system_info().client_info)), file=sys.stderr, flush=True)
os._exit(0)
"""


def connected(kits: Path) -> list[str]:
    words = [sys.executable, "-c", CONNECTED, ADMIN_NAME, str(kits / "admin")]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=120, check=True)
    names: list[str] = json.loads(done.stderr.splitlines()[-1])
    return names


@pytest.mark.slow
def test_a_revoked_kit_is_out_at_once_and_after_a_start(tmp_path: Path) -> None:
    """Protects from a trust that has left: its kit, or a copy of it, leads back in never again."""
    kits = provision(tmp_path)
    away = flip_fl("kit", "revoke", "Trust_2", "--yes", cwd=tmp_path)
    assert away.exit_code == 3, away.stderr
    assert "nothing has changed" in away.stderr
    with started(kits / "Trust_1"):
        with started(kits / "server"), started(kits / "Trust_2"):
            wait_for(lambda: connected(kits) == ["Trust_1", "Trust_2"], "both are connected", 120)
            done = flip_fl("kit", "revoke", "Trust_2", "--yes", "--json", cwd=tmp_path)
            assert done.exit_code == 0, done.stderr
            assert connected(kits) == ["Trust_1"]
        with started(kits / "server"), started(kits / "Trust_2") as log:
            wait_for(lambda: connected(kits) == ["Trust_1"], "the other one is connected again", 120)
            wait_for(lambda: "disabled" in log.read_text(encoding="utf-8").lower(), "the revoked one is told", 60)
            assert connected(kits) == ["Trust_1"]
    again = flip_fl("kit", "revoke", "Trust_2", "--yes", cwd=tmp_path)
    assert again.exit_code == 0
    assert "Trust_2 is kept out since" in again.stdout
    assert flip_fl("provision", "--add", "1", cwd=tmp_path).exit_code == 0
    assert (kits / "Trust_3").is_dir()


def _script(kit: Path, name: str) -> subprocess.CompletedProcess[str]:
    env = environment(FLIP_PYTHON=sys.executable)
    return subprocess.run(
        [str(kit / "startup" / name)], env=env, capture_output=True, text=True, timeout=120, check=False
    )


def _clients(kit: Path) -> list[int]:
    """NVFLARE's client processes of this kit on this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "nvflare.private.fed.app.client.client_train" in words and str(kit) in words:
            found.append(process.pid)
    return found


@pytest.mark.slow
def test_a_kit_runs_once_whichever_way_it_is_started_and_is_stopped_at_any_moment(tmp_path: Path) -> None:
    """Protects a site from a second client with its identity, and an engineer from a stop that is not heard.

    The service's way and start.sh know one another; a stop right after the start ends it; what was killed comes back,
    and leaves nothing that goes on alone. A kit that is not filled in does not start. Needs no server.
    """
    kits = provision(tmp_path)
    kit = kits / "Trust_1"
    filled = (kit / "local/flip.env").read_text(encoding="utf-8")
    (kit / "local/flip.env").write_text("LOCAL_DEV=false\n", encoding="utf-8")
    bare = _script(kit, "start.sh")
    assert (bare.returncode, "FLIP-E0401" in bare.stderr) == (2, True), bare.stderr
    (kit / "local/flip.env").write_text(filled, encoding="utf-8")

    assert _script(kit, "start.sh").returncode == 0
    assert _script(kit, "status.sh").returncode == 0
    assert _script(kit, "stop.sh").returncode == 0
    assert _clients(kit) == []
    with started(kit):
        wait_for(lambda: len(_clients(kit)) == 1, "the service's client runs", 60)
        told = _script(kit, "status.sh")
        assert (told.returncode, "\nnot connected to localhost:" in told.stderr) == (0, True), told.stderr
        second = _script(kit, "start.sh")
        assert (second.returncode, "FLIP-E0615" in second.stderr) == (5, True), second.stderr
        (first,) = _clients(kit)
        os.kill(first, signal.SIGKILL)
        wait_for(lambda: len(_clients(kit)) == 1 and _clients(kit) != [first], "it is started again", 60)
        assert _script(kit, "stop.sh").returncode == 0
        assert _clients(kit) == []
    assert _script(kit, "status.sh").returncode == 1

    assert _script(kit, "start.sh").returncode == 0
    wait_for(lambda: len(_clients(kit)) == 1, "the client runs", 60)
    lock = json.loads((kit / "state/serve.lock").read_text(encoding="utf-8"))
    os.kill(lock["pid"], signal.SIGKILL)
    wait_for(lambda: _clients(kit) == [], "nothing goes on alone", 60)
    assert _script(kit, "status.sh").returncode == 1
