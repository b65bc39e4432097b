"""A whole Flower job runs on one machine, is refused with reasons, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flip_fl.errors import FlipError
from flip_fl.flower.component import load_client_app
from flip_fl.flower.local_job import run_job
from tests.support.flower_plain import gone, until, write_plain_job


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job folder of Flower's with apps that are not ours."""
    return write_plain_job(tmp_path_factory.mktemp("job"))


def _command(job: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "flip_fl.flower.local", str(job), *options]


def _options(tmp_path: Path, what: str = "") -> list[str]:
    return [
        "--log-dir",
        str(tmp_path / "logs"),
        "--run-config",
        f"note={tmp_path / 'note'}",
        "--run-config",
        f"what={what}",
    ]


def test_a_whole_job_runs_with_its_slots_its_config_and_less_than_a_second_a_round(job: Path, tmp_path: Path) -> None:
    """The developer's loop: any Flower app, no SuperLink, and time for nothing but the work."""
    options = [*_options(tmp_path), "--slots", "Trust_1,Trust_7", "--run-config", "rate=2"]
    environment = {**os.environ, "INTERNAL_SERVICE_KEY": "k", "FLIP_API_INTERNAL_URL": "http://hub", "DEV_TABULAR": "1"}
    done = subprocess.run(_command(job, *options), env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    facts = json.loads((tmp_path / "note").read_text())
    assert (facts["config"]["flip-slots"], facts["config"]["rate"]) == ("Trust_1,Trust_7", 2.0)
    said = facts["said"]
    assert {slot: (s["count"], s["rate"], s["partition"]) for slot, s in said.items()} == {
        "Trust_1": (3, 2.0, 0),
        "Trust_7": (3, 2.0, 1),
    }
    assert min(facts["rounds"][1:]) < 1.0
    for record in said.values():
        assert "DEV_TABULAR" in record["environment"]
        assert {"INTERNAL_SERVICE_KEY", "FLIP_API_INTERNAL_URL"}.isdisjoint(record["environment"])
        assert gone(record["pid"])
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == ["Trust_1.log", "Trust_7.log"]


def _hanging(job: Path, tmp_path: Path) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A job whose sites are in the middle of a task, and the ids of the sites' processes."""
    server = subprocess.Popen(_command(job, *_options(tmp_path, "hang")), stderr=subprocess.DEVNULL)
    notes = [tmp_path / f"note-Trust_{number}" for number in (1, 2)]
    try:
        until(lambda: all(note.exists() and note.read_text() != "" for note in notes), 120)
    except AssertionError:
        server.kill()
        raise
    return server, [int(note.read_text()) for note in notes]


def test_sigterm_ends_the_server_app_by_system_exit_and_the_sites_tasks_early(job: Path, tmp_path: Path) -> None:
    """A stop from outside must reach what the ServerApp does at its end, and every site."""
    server, pids = _hanging(job, tmp_path)
    server.send_signal(signal.SIGTERM)
    assert server.wait(120) == 6
    assert (tmp_path / "note").read_text() == "SystemExit 6"
    for number in (1, 2):
        assert (tmp_path / f"note-Trust_{number}").read_text().endswith("stopped")
    assert all(gone(pid) for pid in pids)


def test_no_site_outlives_a_server_that_is_killed(job: Path, tmp_path: Path) -> None:
    """kill -9 leaves nobody to tidy up; a site in the middle of its task must end all the same."""
    server, pids = _hanging(job, tmp_path)
    server.kill()
    server.wait(60)
    until(lambda: all(gone(pid) for pid in pids))
    assert not (tmp_path / "note-Trust_1").read_text().endswith("stopped")


def test_a_server_app_that_fails_is_no_success(job: Path, tmp_path: Path) -> None:
    """The exit code is what a pipeline looks at, and the log tells each thing once, in plain text."""
    done = subprocess.run(_command(job, *_options(tmp_path, "fail")), capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ValueError: the ServerApp failed" in done.stderr
    assert done.stderr.count("the ServerApp fails now") == 1
    assert "\x1b" not in done.stderr, "a log file is not a terminal"


@pytest.mark.parametrize(
    ("slots", "config", "code"),
    [
        (("a", "a"), {}, "E0303"),
        (("../a",), {}, "E0303"),
        ((), {"rat": 1.0}, "E0531"),
        ((), {"rate": "high"}, "E0531"),
        ((), {"what": True}, "E0531"),
    ],
)
def test_what_a_job_cannot_be_run_with_is_refused_by_name(
    job: Path, slots: tuple[str, ...], config: dict[str, Any], code: str
) -> None:
    """A misspelt key would otherwise have no effect, and a slot's name would be a path."""
    with pytest.raises(FlipError) as refused:
        run_job(job, slots, run_config=config)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("project", "problem"),
    [
        (None, "no readable pyproject.toml"),
        ("[tool", "not TOML"),
        ("[tool.flwr.app.components]\nserverapp = 'a:b'\n", "no clientapp"),
        ("[tool.flwr.app.components]\nserverapp = 'a'\nclientapp = 'a:b'\n", "no serverapp"),
        ("tool = 3\n", "no serverapp"),
        (
            "[tool.flwr.app.components]\nserverapp = 'a:b'\nclientapp = 'a:b'\n[tool.flwr.app.config]\nx = [1]\n",
            "x in [tool.flwr.app.config] is a list",
        ),
    ],
)
def test_a_folder_that_is_no_flower_app_is_refused_with_the_reason(
    tmp_path: Path, project: str | None, problem: str
) -> None:
    """The one file that says what to run is read with care."""
    if project is not None:
        (tmp_path / "pyproject.toml").write_text(project)
    with pytest.raises(FlipError) as refused:
        run_job(tmp_path)
    assert refused.value.code == "E0530"
    assert problem in str(refused.value)


def test_a_component_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    """An app that names its ServerApp as its ClientApp would fail in words of Python's."""
    (tmp_path / "turned.py").write_text("from flwr.serverapp import ServerApp\napp = ServerApp()\n")
    (tmp_path / "pyproject.toml").write_text(
        "[tool.flwr.app.components]\nserverapp = 'turned:app'\nclientapp = 'turned:app'\n"
    )
    with pytest.raises(FlipError, match="turned:app is a ServerApp; it must be a ClientApp"):
        load_client_app(tmp_path)
