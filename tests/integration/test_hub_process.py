"""The hub as a process of its own, as the simulator and an administrator start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import requests

from flip_fl.hub import admin, model_service
from flip_fl.hub.tables import HubPresence, Model, utc_now
from flip_fl.settings import write_settings_file
from flip_fl.values import ModelStatus


def _start(settings: Path, *more: str) -> subprocess.Popen[str]:
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.Popen(
        [sys.executable, "-m", "flip_fl.hub", "--settings", str(settings), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def _wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> int:
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "the hub did not say its port"
        time.sleep(0.05)
    return int(path.read_text())


def _settings(folder: Path, url: str) -> tuple[Path, str]:
    key, fingerprint = admin.new_service_key()
    path = folder / "hub.env"
    write_settings_file(path, {"FLIP_HUB_DATABASE_URL": url, "INTERNAL_SERVICE_KEY_HASH": fingerprint})
    return path, key


def test_it_serves_on_loopback_alone_and_leaves_in_order(database_url: str, tmp_path: Path) -> None:
    """The port file says when and where; a report is stored; SIGTERM ends the process with 0 and without a word."""
    settings, key = _settings(tmp_path, database_url)
    with admin.open_session(database_url) as session:
        admin.create_project(session, "p")
        model = admin.create_model(session, "p", "m")
    process = _start(settings, "--port", "0", "--port-file", str(tmp_path / "port"))
    try:
        port = _wait_for(tmp_path / "port", process)
        base = f"http://127.0.0.1:{port}/api"
        assert requests.get(f"{base}/health", timeout=60).json()["service"] == "flip-hub"
        response = requests.put(
            f"{base}/model/{model.id}/status/RUNNING", headers={"X-Internal-Service-Key": key}, timeout=60
        )
        assert response.status_code == 200
        own = socket.gethostbyname(socket.gethostname())
        if not own.startswith("127."):
            with socket.socket() as probe:
                probe.settimeout(2)
                assert probe.connect_ex((own, port)) != 0
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    with admin.open_session(database_url) as session:
        assert [row.status for row in admin.list_models(session)] == ["RUNNING"]


def test_a_hub_with_the_rule_ends_a_silent_run_by_itself(database_url: str, tmp_path: Path) -> None:
    """Nobody has to ask: the process ends the run, says so in its log, and keeps saying that it is there itself."""
    settings, _ = _settings(tmp_path, database_url)
    with settings.open("a", encoding="utf-8") as file:
        file.write("FLIP_HUB_STALE_ERROR_AFTER_S='3600'\n")
    now = utc_now()
    with admin.open_session(database_url) as session:
        admin.create_project(session, "p")
        model = admin.create_model(session, "p", "m")
        model_service.update_model_status(model.id, ModelStatus.RUNNING, session)
        session.get_one(Model, model.id).heard_at = now - timedelta(hours=2)
        session.add(HubPresence(id=1, up_since=now - timedelta(days=1), seen_at=now))
        session.commit()
    process = _start(settings, "--port", "0", "--port-file", str(tmp_path / "port"))
    try:
        _wait_for(tmp_path / "port", process)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert f"model {model.id} was ended as failed" in err
    with admin.open_session(database_url) as session:
        assert [row.status for row in admin.list_models(session)] == ["ERROR"]
        there = session.get_one(HubPresence, 1)
        assert there.up_since == now - timedelta(days=1)
        assert there.seen_at > now


def test_a_database_without_tables_stops_the_start(tmp_path: Path) -> None:
    """The process does not come up half: it says what to do and exits with the code of the table."""
    settings, _ = _settings(tmp_path, f"sqlite:///{tmp_path / 'hub.sqlite'}")
    process = _start(settings, "--port-file", str(tmp_path / "port"))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "error[FLIP-E1001]" in err
    assert "fix: flip-fl hub init" in err
    assert "Traceback" not in err
    assert not (tmp_path / "port").exists()


def test_a_missing_settings_file_is_named(tmp_path: Path) -> None:
    """A wrong path is no reason to start with defaults."""
    process = _start(tmp_path / "nowhere.env")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "nowhere.env" in err


@pytest.mark.parametrize("port", ["taken", "70000"])
def test_a_port_that_cannot_be_had_is_named(tmp_path: Path, port: str) -> None:
    """A taken port and one that is none are told in one line."""
    url = f"sqlite:///{tmp_path / 'hub.sqlite'}"
    admin.init_database(url)
    settings, _ = _settings(tmp_path, url)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        number = str(taken.getsockname()[1]) if port == "taken" else port
        process = _start(settings, "--port", number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "error[FLIP-E1006]" in err
    assert number in err
