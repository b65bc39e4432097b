"""Wrong command lines, bugs and Ctrl-C: what a person reads and what the shell gets."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cli import SCRIPT, environment, flip_fl, installed


@pytest.mark.parametrize(
    ("words", "first", "fix"),
    [
        ("rnu . -x", "error[FLIP-E0101]: no command 'rnu'", "flip-fl run . -x"),
        ("zebra", "error[FLIP-E0101]: no command 'zebra'", "flip-fl --help"),
        ("hub trst list", "error[FLIP-E0101]: no command 'trst'", "flip-fl hub trust list"),
        ("hub", "error[FLIP-E0102]: flip-fl hub needs a command", "flip-fl hub --help"),
        ("doctor --hubb", "error[FLIP-E0102]: flip-fl doctor has no option '--hubb'", "flip-fl doctor --hub"),
        ("run . --round=3", "error[FLIP-E0102]: flip-fl run has no option '--round'", "flip-fl run . --rounds=3"),
        ("doctor --zebra", "error[FLIP-E0102]: flip-fl doctor has no option '--zebra'", "flip-fl doctor --help"),
        (
            "run . --sites two",
            "error[FLIP-E0102]: --sites is 'two'; it must be a whole number from 1 to 100",
            "flip-fl run --help",
        ),
        (
            "run . --rounds=2000",
            "error[FLIP-E0102]: --rounds is '2000'; it must be a whole number from 1 to 1000",
            "flip-fl run --help",
        ),
        (
            "doctor --color allways",
            "error[FLIP-E0102]: --color is 'allways'; it must be one of auto, always, never",
            "did you mean always?",
        ),
        ("explain E0312 E0101", "error[FLIP-E0102]: flip-fl explain does not take 'E0101'", "flip-fl explain --help"),
        (
            "run",
            "error[FLIP-E0102]: flip-fl run needs APP_DIR",
            "flip-fl run examples/breast_cancer --engine nvflare --sites 2",
        ),
        ("run . --rounds", "error[FLIP-E0102]: --rounds needs a value", "flip-fl run --help"),
        ("doctor --hub=1", "error[FLIP-E0102]: --hub does not take a value", "flip-fl doctor --help"),
    ],
)
def test_a_wrong_command_line_is_told_with_a_right_one(words: str, first: str, fix: str, tmp_path: Path) -> None:
    """Protects people from a usage dump: what is wrong, in their own word, and a line to paste."""
    done = flip_fl(*words.split(), cwd=tmp_path)
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [first, f"  fix: {fix}", f"  see: flip-fl explain {first[11:16]}"]


def test_control_characters_of_what_was_typed_are_shown_and_not_sent_to_the_terminal(tmp_path: Path) -> None:
    """Protects the terminal from a name that was pasted from somewhere."""
    done = flip_fl("run\x1b[2J", cwd=tmp_path)
    assert done.stderr.splitlines()[0] == "error[FLIP-E0101]: no command 'run\\x1b[2J'"
    assert "\x1b" not in done.stderr


def test_a_bug_is_one_message_and_a_traceback_in_a_private_file(tmp_path: Path) -> None:
    """Protects people from tracebacks, and the traceback (it names paths) from other users."""
    program = (
        "import sys\nfrom flip_fl import cli\nfrom flip_fl.commands import explain\n"
        "def broken(code): raise RuntimeError('canary')\n"
        "explain._entry = broken\nsys.exit(cli.call(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "explain", "E0101"],
        cwd=tmp_path,
        env=environment(TMPDIR=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    (file,) = tmp_path.glob("flip-fl-*.traceback.txt")
    assert done.returncode == 70
    assert done.stdout == ""
    assert done.stderr.startswith("error[FLIP-E0001]: flip-fl failed in a way it should not: RuntimeError\n")
    assert str(file) in done.stderr
    assert "canary" not in done.stderr
    assert "RuntimeError: canary" in file.read_text(encoding="utf-8")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_part_that_is_not_installed_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    """Protects the small base install: a command that needs more says what to install, and is no bug."""
    (tmp_path / "sqlmodel.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'sqlmodel'\", name='sqlmodel')\n", encoding="utf-8"
    )
    done = installed("hub", "init", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0] == "error[FLIP-E0509]: sqlmodel is not installed"
    assert "  fix: pip install 'flip_fl[hub]'" in done.stderr.splitlines()
    assert not (tmp_path / "hub").exists()


def test_ctrl_c_ends_with_130_and_says_so(tmp_path: Path) -> None:
    """Protects scripts that tell a person's Ctrl-C from a failure."""
    program = (
        "import sys, time\nfrom flip_fl import cli\nfrom flip_fl.commands import explain\n"
        "def slow(code):\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "explain._entry = slow\nsys.exit(cli.call(sys.argv[1:]))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, "explain", "E0101"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    os.kill(child.pid, signal.SIGINT)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 130
    assert errors.splitlines()[0] == "error[FLIP-E0103]: stopped by Ctrl-C"
    assert "Traceback" not in errors


def test_the_log_file_is_private_and_holds_requests_with_their_times(tmp_path: Path) -> None:
    """Protects what is logged, and the promise that -v and FLIP_LOG show each request."""
    env = {"FLIP_LOG": str(tmp_path / "log"), "INTERNAL_SERVICE_KEY": "canary-key", "LOCAL_DEV": "true"}
    env["FLIP_API_INTERNAL_URL"] = "http://127.0.0.1:9/api"
    env["UPLOADED_FEDERATED_DATA_BUCKET"] = "s3://bucket"
    done = flip_fl("doctor", "--hub", "-v", cwd=tmp_path, env=env)
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert done.exit_code == 3
    assert "127.0.0.1:9" in text
    assert "127.0.0.1:9" in done.stderr
    assert "canary-key" not in text + done.stderr + done.stdout
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600


def test_quiet_leaves_the_answer_and_the_errors(tmp_path: Path) -> None:
    """Protects scripts that want the answer alone."""
    assert flip_fl("explain", "E0101", "-q", cwd=tmp_path).stdout.startswith("FLIP-E0101")
    assert flip_fl("run", "-q", cwd=tmp_path).stderr.startswith("error[")
    assert SCRIPT.is_file()
