"""The container's files, as far as they can be tried without a container engine."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests
import yaml

from flip_fl.hub import admin
from flip_fl.settings import HubSettings
from tests.support.databases import PostgresServer

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
# What the entrypoint itself reads beside the hub's settings.
OWN = {"FLIP_HUB_PORT"}


def test_the_entrypoint_makes_the_tables_serves_and_leaves(postgres: PostgresServer, tmp_path: Path) -> None:
    """What the container runs: secrets from files, an empty PostgreSQL, a hub that answers, JSON on stderr, exit 0."""
    key, fingerprint = admin.new_service_key()
    (tmp_path / "url").write_text(postgres.empty_database() + "\n")
    (tmp_path / "hash").write_text(fingerprint + "\n")
    environment = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FLIP_HUB_DATABASE_URL_FILE": str(tmp_path / "url"),
        "INTERNAL_SERVICE_KEY_HASH_FILE": str(tmp_path / "hash"),
        "FLIP_HUB_PORT": "0",
        "FLIP_HUB_LOG": "json",
    }
    command = [str(DEPLOY / "entrypoint.sh"), "--port-file", str(tmp_path / "port")]
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "port").exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        base = f"http://127.0.0.1:{(tmp_path / 'port').read_text().strip()}"
        assert requests.get(f"{base}/health", timeout=60).json()["status"] == "ok"
        model = "0190a6c1-0000-7000-8000-000000000001"
        answer = requests.put(
            f"{base}/api/model/{model}/status/RUNNING", headers={"X-Internal-Service-Key": key}, timeout=60
        )
        assert answer.status_code == 404
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    lines = [json.loads(line) for line in errors.splitlines()]
    # a line is written when its answer is out already, so they come in any order
    told = [(line["path"], line["status"]) for line in lines if line["logger"] == "flip_fl.hub.requests"]
    assert sorted(told) == [(f"/api/model/{model}/status/RUNNING", 404), ("/health", 200)]


def test_the_compose_file_names_what_is_there() -> None:
    """Settings, secrets and files that nobody knows would show only on the day of the roll-out."""
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    hub = compose["services"]["hub"]
    known = {str(field.alias) for field in HubSettings.model_fields.values()} | OWN
    assert {name.removesuffix("_FILE") for name in hub["environment"]} <= known
    used = {secret for service in compose["services"].values() for secret in service["secrets"]}
    assert used == set(compose["secrets"])
    assert [port.split(":")[0] for port in hub["ports"]] == ["127.0.0.1"]
    assert "ports" not in compose["services"]["database"]
    assert (ROOT / hub["build"]["dockerfile"]).is_file()
    assert not list(DEPLOY.glob("secrets/*"))


def test_the_container_file_copies_what_is_there_and_runs_as_nobody() -> None:
    """Each source that it copies is in the repository; the hub does not run as root."""
    lines = (DEPLOY / "Containerfile").read_text(encoding="utf-8").splitlines()
    copied = [line.split()[1:-1] for line in lines if line.startswith("COPY") and "--from" not in line]
    assert all((ROOT / source).exists() for sources in copied for source in sources)
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001"]
    secrets = re.compile(r"(KEY|PASSWORD|TOKEN)=\S")
    assert not [line for line in lines if line.startswith(("ENV", "ARG")) and secrets.search(line)]
